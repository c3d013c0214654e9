"""What is sent and what came of it: the types that baselines, students, tables and report share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Refusal = Literal["", "truncated", "invisible"]
Kind = Literal["student", "untrained", "baseline", "control"]


class Message(NamedTuple):
    """What one sender says about one task.

    tokens   under the student's tokenizer
    refused  why it counts as failed whatever its program does: the student was cut off, or sent nothing
             visible. Baselines and controls are never refused: what they do is measured
    """

    text: str
    tokens: int
    refused: Refusal = ""


@dataclass(frozen=True)
class Sender:
    """One line of the table before it is measured: who sends, and what it says about each task.

    kind      student; untrained: what it started from; baseline: could be used instead of a student;
              control: must do badly
    messages  [B] one per task, in the order of the tasks
    notes     what has to be said about it, e.g. the tasks for which it fell back on something else
    """

    name: str
    kind: Kind
    messages: list[Message]
    notes: list[str] = field(default_factory=list)


class Record(NamedTuple):
    """One message, the program it became, and the judge's verdict. One line of heldout.jsonl, less `step`."""

    task_id: str
    family: str
    message: str
    tokens: int
    refused: Refusal
    program: str
    outcome: str
    assurance: str

    @property
    def passed(self) -> bool:
        """Whether every test passed and the message was one that counts."""
        return self.outcome == "passed" and not self.refused
