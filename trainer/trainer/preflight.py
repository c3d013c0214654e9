"""What can be known to fail before a run folder is made or a service started. Loads no model."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from trainer.config import ConfigError
from trainer.config_program import ProgramConfig
from trainer.config_text import STARTER, TextConfig
from trainer.hub import require_model
from trainer.tasks.sequences_load import check_chunks
from trainer.tasks.sources import SPLITS, load_tasks

# Generators that are no model of the hub.
OWN_GENERATORS = (None, STARTER, "echo")


def check_text(config: TextConfig, processes: int) -> None:
    """Raise ConfigError if a text run with these settings cannot come to its first step."""
    config.groups(processes)
    check_trackers(config.trackers)
    for split in SPLITS:
        load_tasks(config, split)
    if config.student_model != STARTER:
        require_model("student_model", config.student_model)
    # With a URL the decoder may be another machine's, and so may its models.
    if not config.decoder_url and config.generator_model not in OWN_GENERATORS:
        require_model("generator_model", str(config.generator_model))


def check_program(config: ProgramConfig) -> None:
    """Raise ConfigError if a program run with these settings cannot come to its first step."""
    check_trackers(config.report_to)
    check_chunks(config)
    if config.model_name != STARTER:
        require_model("model_name", config.model_name)


def check_trackers(names: Sequence[str]) -> None:
    """Raise ConfigError for a tracker whose package is not installed."""
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"report_to={','.join(missing)}: not installed; `pip install {' '.join(missing)}`, or leave "
            f"{'it' if len(missing) == 1 else 'them'} out of --report-to"
        )
