"""`psuedoptimal sweep FOLDER`: one run for each setting of the reward and each seed, and the front they draw.

The folder is the sweep's memory: the same command again takes up what is begun, leaves what is done and
trains what is missing. Training and evaluation are the verbs themselves, as processes; two services serve
all.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer.cli_train import new_config
from trainer.cli_verbs import check_file, positive, run_verb, seeds_of, terminated
from trainer.config import ConfigError, dump_yaml
from trainer.config_text import TextConfig
from trainer.measure.evaluation_file import command_line
from trainer.measure.folder import EVALUATION, own_settings
from trainer.measure.rates_read import INCIDENTAL
from trainer.pace import duration, told_where
from trainer.preflight import check_text
from trainer.runs import refuse_inside_run
from trainer.supervise import services

CONFIG = Path("starter-text.yaml")
# Each kind of reward with the normalisation it is usually given.
MENU = (
    "reward=relative", "reward=ratio scale_rewards=group", "reward=log_ratio scale_rewards=group",
    "reward=lagrangian multiplier_rate=0.5",
    "reward=budget budget=12 budget_start=36 scale_rewards=group",
)  # fmt: skip
# One table has one set of tasks, one tokenizer and one decoder, and two services serve all runs.
SHARED = (
    "dataset", "dataset_config", "heldout_tasks", "student_model", "generator_model", "decoder_url",
    "sandbox_url", "decoders",
)  # fmt: skip
EXAMPLE = f"""Without --point each kind of reward is trained once:
{chr(10).join(f"  {point}" for point in MENU)}

examples:
  psuedoptimal sweep sweeps/rewards
  psuedoptimal sweep sweeps/targets --seeds 1,2 --point target_pass_rate=0.8 --point target_pass_rate=0.97
  psuedoptimal sweep sweeps/budgets --point "reward=budget budget=8" --point "reward=budget budget=16"
"""


@dataclass(frozen=True)
class Trial:
    """One run of the sweep.

    point   the settings as they were given, its name in table and figure
    config  the whole run's
    """

    point: str
    seed: int
    folder: Path
    config: TextConfig

    @property
    def is_begun(self) -> bool:
        """Whether it has its folder."""
        return (self.folder / "config.yaml").is_file()

    @property
    def is_trained(self) -> bool:
        """Whether it has its summary."""
        return (self.folder / "summary.json").is_file()

    @property
    def is_done(self) -> bool:
        """Whether it is trained and evaluated."""
        return self.is_trained and (self.folder / EVALUATION).is_file()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the folder, the settings to try, seeds and size."""
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="where the runs of the sweep lie, or shall lie")
    add("--point", action="append", default=[], metavar="SETTINGS",
        help='settings of one point, e.g. "reward=budget budget=12"; may be repeated')  # fmt: skip
    add("--seeds", default="1", help="training seeds by comma, e.g. 1,2,3 [1]")
    add("--config", type=Path, default=CONFIG, help=f"settings of all runs [{CONFIG}]")
    add("--max-steps", type=positive, help="train less, to see the parts move")
    add("--heldout-tasks", type=positive, help="measure on fewer tasks")
    add("--svg", type=Path, metavar="FILE", help="where the figure goes [FOLDER/front.svg]")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print everything as JSON")
    form.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.epilog = EXAMPLE


def command(args: argparse.Namespace) -> int:
    """Train and evaluate what is missing, draw the front.

    returns  0; the code of the run that failed, or 130 after Ctrl-C, with what is left said
    """
    trials = planned(args)
    refuse_inside_run(args.folder)
    _check(trials)
    figure = args.svg or args.folder / "front.svg"
    check_file("--svg", figure, made=args.folder)
    signal.signal(signal.SIGTERM, terminated)
    if not all(trial.is_done for trial in trials):
        with told_where(lambda: _left(trials)):
            code = _carry_out(trials, args.folder / "logs")
        if code:
            print(_left(trials), file=sys.stderr)
            return code
    try:
        _show(trials, args, figure)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return 0


def planned(args: argparse.Namespace) -> list[Trial]:
    """Return the sweep's runs. Raises ConfigError for settings that are none, or a run that had others."""
    sized = {name: getattr(args, name) for name in ("max_steps", "heldout_tasks") if getattr(args, name)}
    seeds, trials = seeds_of(args.seeds), []
    for point in dict.fromkeys(args.point or MENU):
        given = settings_of(point)
        for seed in seeds:
            try:
                config = new_config({**sized, **given, "seed": seed}, [args.config])
            except ConfigError as error:
                raise ConfigError(f"--point {point!r}: {error}") from error
            name = f"{re.sub(r'[^A-Za-z0-9.]+', '-', point).strip('-')[:80]}-seed{seed}"
            trial = Trial(point, seed, args.folder / name, config)
            _refuse_other(trial)
            trials.append(trial)
    folders = [trial.folder for trial in trials]
    if twice := [t.point for t in trials if folders.count(t.folder) > 1]:
        raise ConfigError(
            f"--point {twice[0]!r} and {twice[1]!r}: the same run folder; spell one differently"
        )
    return trials


def _check(trials: list[Trial]) -> None:
    """Raise ConfigError for a point that cannot be trained, or not be shown beside the first."""
    first = trials[0]
    for trial in {trial.point: trial for trial in trials}.values():
        for name in SHARED:
            ours, other = getattr(first.config, name), getattr(trial.config, name)
            if other != ours:
                raise ConfigError(
                    f"--point {trial.point!r}: {name}={other!r}, where {first.point!r} has {ours!r}; the "
                    "points of a sweep share it; give it in --config, or sweep into another FOLDER"
                )
        try:
            check_text(trial.config, 1)
        except ConfigError as error:
            raise ConfigError(f"--point {trial.point!r}: {error}") from error


def settings_of(point: str) -> dict[str, Any]:
    """Take "name=value name=value" apart. Raises ConfigError naming what is no setting."""
    found: dict[str, Any] = {}
    try:
        words = shlex.split(point)
    except ValueError as error:
        raise ConfigError(f"--point {point!r}: {error}; close the quote, or leave it out") from error
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not value:
            raise ConfigError(f"--point {point!r}: {word!r} is no NAME=VALUE, e.g. reward=ratio")
        if name in ("seed", "name", "runs"):
            raise ConfigError(f"--point {point!r}: the sweep itself sets {name}; use --seeds and FOLDER")
        try:
            found[name.replace("-", "_")] = yaml.safe_load(value)
        except (yaml.YAMLError, ValueError) as error:
            said = getattr(error, "problem", None) or error
            raise ConfigError(
                f"--point {point!r}: {value!r} is not YAML ({said}); write e.g. reward=ratio, or "
                "\"trl='{key: value}'\""
            ) from error
    if not found:
        raise ConfigError(f"--point {point!r}: give at least one NAME=VALUE, e.g. reward=ratio")
    return found


def _refuse_other(trial: Trial) -> None:
    """Raise ConfigError if the run is there with other settings than this sweep would give it."""
    if not trial.is_begun:
        return
    there, wanted = (
        config.model_dump(mode="json", exclude=INCIDENTAL - {"seed"})
        for config in (own_settings(TextConfig, trial.folder), trial.config)
    )
    if other := sorted(name for name in wanted if there[name] != wanted[name]):
        raise ConfigError(
            f"{trial.folder}: a run with other settings ({', '.join(other)}); give the sweep another FOLDER, "
            "or the settings it began with"
        )


def _carry_out(trials: list[Trial], logs: Path) -> int:
    """Train and evaluate what is missing, one run after the other; return the first code that is not 0."""
    config, started = trials[0].config, time.monotonic()
    todo = [trial for trial in trials if not trial.is_done]
    with services(logs, config.generator_model, config.decoder_url, config.sandbox_url, config.decoders) as (
        decoder,
        sandbox,
    ):
        own = [f"{room}_url" for room in ("decoder", "sandbox") if not getattr(config, f"{room}_url")]
        unsaved = ["--unsaved", *own] if own else []
        for place, trial in enumerate(todo):
            spent = time.monotonic() - started
            left = f", about {duration(spent / place * (len(todo) - place))} left" if place else ""
            number = trials.index(trial) + 1
            print(f"run {number} of {len(trials)}: {trial.point}, seed {trial.seed}{left}", file=sys.stderr)
            urls = ["--decoder-url", *decoder, "--sandbox-url", *sandbox, *unsaved]
            code = 0 if trial.is_trained else _train(trial, urls)
            measured = [f"--decoder-url={url}" for url in decoder]
            measured += [f"--sandbox-url={url}" for url in sandbox]
            code = code or run_verb("evaluate", str(trial.folder), *measured, *unsaved, quiet=True)
            if code:
                return code
    return 0


def _left(trials: list[Trial]) -> str:
    """Return how far the sweep is, and the command that goes on with it."""
    done = sum(trial.is_done for trial in trials)
    return f"{done} of {len(trials)} runs are done; go on with: {command_line(sys.argv[1:])}"


def _train(trial: Trial, urls: list[str]) -> int:
    """Train a run, or go on with it; return its code. A new one's settings are what its file says."""
    if trial.is_begun:
        return run_verb("train", "text", "--resume", str(trial.folder), *urls, quiet=True)
    file = trial.folder.parent / "settings" / f"{trial.folder.name}.yaml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(dump_yaml(trial.config), encoding="utf-8")
    place = ["--config", str(file), "--runs", str(trial.folder.parent), "--name", trial.folder.name]
    return run_verb("train", "text", *place, *urls, quiet=True, resolved=True)


def _show(trials: list[Trial], args: argparse.Namespace, file: Path) -> None:
    """Print the table and write the figure. Raises ValueError if the runs have no place in one table."""
    from trainer.measure.folder import read_run
    from trainer.measure.sweep import as_markdown, as_text, figure, swept

    settings: dict[str, list[Any]] = {}
    for trial in trials:
        settings.setdefault(trial.point, []).append(read_run(trial.folder, episodes=False))
    found = swept(settings)
    file.write_text(figure(found, {t.point: t.config.reward for t in trials}), encoding="utf-8")
    print(f"figure: {file}", file=sys.stderr)
    if args.json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        print(as_markdown(found) if args.markdown else as_text(found))
