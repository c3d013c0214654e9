"""Ask a text run one thing at a time: its tasks, its student's message, what a verdict would have earned.

For the playground, which may import nothing else of the trainer. Reads run folders, talks to no service, and
never goes to a model hub. torch is imported when a student is loaded.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config import ConfigError
from trainer.config_text import STARTER, Data, TextConfig
from trainer.measure.folder import checkpoint_folder, own_settings
from trainer.measure.record import Message
from trainer.measure.students import Student, encode_tasks, load_student, load_tokenizer
from trainer.runs import Run
from trainer.tasks.sources import load_tasks, local
from trainer.tasks.task import Task

__all__ = [
    "Earned", "Student", "Task", "Words", "config_of", "earned", "message_of", "student_of", "tasks_of",
    "words_of",
]  # fmt: skip

SPLITS = ("validation", "test")


def config_of(run: Path) -> TextConfig:
    """Return the settings of a text run. Raises ConfigError if it is none, or of another version."""
    return own_settings(TextConfig, Run.open(run).folder)


def tasks_of(config: TextConfig | None = None) -> list[Task]:
    """Return the tasks nothing was trained on: those that chose the checkpoint, then those it is measured on.

    config  None is the starter world
    raises  ConfigError where they would have to be fetched from a hub, or cannot be read
    """
    data = config or Data.model_validate({"dataset": STARTER})
    if data.dataset != STARTER and local(data.dataset) is None:
        raise ConfigError(
            f"dataset={data.dataset!r} lies on a hub, where the playground does not go; "
            "name a file of it in the run's config, or write a task's tests by hand"
        )
    return [task for split in SPLITS for task in load_tasks(data, split)]


@dataclass(frozen=True)
class Words:
    """A tokenizer, for counting.

    vocabulary  tokens it has
    """

    tokenizer: Any

    @property
    def vocabulary(self) -> int:
        """How many different tokens there are."""
        return len(self.tokenizer)

    def count(self, text: str) -> int:
        """Return the tokens of a text, special tokens excluded."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def pieces(self, text: str) -> list[str]:
        """Return the text each token stands for; for one that is part of a character, the character."""
        spans = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return [text[start:end] for start, end in spans]

    def bits(self, tokens: int) -> float:
        """Return what so many tokens take when every one is as likely: tokens x log2 of the vocabulary."""
        return tokens * math.log2(self.vocabulary)


def words_of(run: Path, config: TextConfig) -> Words:
    """Return the tokenizer of a run's student: its best checkpoint's, else that of its first model."""
    best = checkpoint_folder(run)
    own = (best / "tokenizer_config.json").is_file()
    return Words(load_tokenizer(str(best if own else config.student_source)))


def student_of(run: Path, config: TextConfig) -> Student:
    """Load a run's best weights. Raises FileNotFoundError without any, ValueError if they are damaged."""
    from trainer.channels.text.student import precision, quiet_libraries

    quiet_libraries()
    return load_student(checkpoint_folder(run), base=config.student_source, precision=precision(config))


def message_of(student: Student, config: TextConfig, task: Task) -> Message:
    """Return the student's greedy message about a task."""
    return encode_tasks(student, [task], max_new_tokens=config.max_completion_length)[0]


@dataclass(frozen=True)
class Earned:
    """What one message would have earned in training.

    reward  the number
    how     how it comes about, in words
    """

    reward: float
    how: str


def earned(
    config: TextConfig, *, passed: bool, tokens: int, reference_tokens: int,
    figures: Mapping[str, float] | None = None,
) -> Earned:  # fmt: skip
    """Return the reward of one message that stands alone in its group.

    figures  of the run's last step, which tell where the reward's controller stood; at its start if None
    """
    from trainer.channels.text.controllers import controller_of
    from trainer.channels.text.rewards import Judged, score

    controller = controller_of(config)
    worth = (figures or {}).get(f"reward/{controller.name}", controller.value) if controller else 0.0
    reward = float(score(config, Judged([passed], [tokens], [reference_tokens]), worth)[0])
    length = max(tokens, config.length_floor)
    match config.reward, passed:
        case ("ratio", True):
            capped = "" if config.ratio_cap is None else f", the ratio at most {config.ratio_cap:g}"
            how = f"{config.pass_reward:g} × {reference_tokens} reference / {length} message tokens{capped}"
        case ("log_ratio", True):
            ratio = f"{reference_tokens} / {length}"
            cut = f"cut at ±{config.log_cap:g}"
            how = f"1 + {config.log_scale:g} × log base {config.log_base:g} of {ratio}, {cut}"
        case ("budget", True):
            over = f"0 from {config.budget_slack:g} tokens over it on"
            how = f"1 for passing within {worth:.4g} tokens, {over}; this one has {length}"
        case ("lagrangian", _):
            how = f"{worth:.3g} × {int(passed)} passed − {length} / {reference_tokens} tokens"
        case ("relative", True):
            how = (
                f"{worth:.3g} for passing; being shorter than the other messages of its group would add to it"
            )
        case ("relative", False):
            how = f"−{worth:.3g} for failing, however short"
        case (_, False):
            how = f"{config.fail_reward:g} for failing, however short"
        case (kind, _):
            how = f"reward {kind}"
    return Earned(reward, how)
