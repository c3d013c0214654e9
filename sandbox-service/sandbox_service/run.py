"""What the judge asks of a jail, and what a jail hands back: the boundary inside this room."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from shared.wire import Limits

AnswerStatus = Literal["value", "raised", "missing"]
How = Literal[
    "answered",
    "load_error",
    "exited",
    "crashed",
    "timeout",
    "memory",
    "output_limit",
    "process_limit",
]


@dataclass(frozen=True)
class Run:
    """One program to run in one jail, once.

    `program` is compiled alone and never joined with any test text. `setup` runs before it in the same
    namespace, and again after it where it fails for a name that the program defines. Each of `calls` is a
    Python expression, evaluated afterwards in that namespace, in order, and answered by one value. `beside`
    holds test statements that run there too (assurance `in_sandbox`), one answer each, after the calls; it is
    filled only when that was asked for. `result` names a variable to bring back as the last answer. `serves`:
    after all that it answers what a test in the judge asks. With `stdin` it runs as a script that reads it,
    `files` (name, content) beside it, and has no answers. No expected value travels otherwise.
    """

    program: str
    setup: str
    calls: tuple[str, ...]
    limits: Limits
    result: str | None = None
    beside: tuple[str, ...] = ()
    serves: bool = False
    stdin: str | None = None
    files: tuple[tuple[str, bytes], ...] = ()


class Conversation(Protocol):
    """Who asks a run that `serves`; called from the loop by the lane that has the run in its hands."""

    def begin(self, ask: Callable[[bytes], None]) -> None:
        """The plain answers are all there. `ask` sends bytes to the program; none mean that it may end."""
        ...

    def heard(self, status: bytes, payload: bytes) -> None:
        """The program said something: its word, not to be trusted."""
        ...

    def gone(self) -> None:
        """The run is over."""
        ...


@dataclass(frozen=True)
class Answer:
    """What came back for one call. `payload` is written by the candidate's process: never to be trusted.

    `value`: codec JSON, for `inside.codec.decode`. `raised`: UTF-8 `ValueError: text`, truncated.
    `missing`: the run ended before this call was answered; the payload is empty. `wall_ms` is what that
    process says, bounded by the run's own time, which is measured outside it.
    """

    status: AnswerStatus
    payload: bytes
    wall_ms: float


@dataclass(frozen=True)
class Ended:
    """How one run ended. `answers` has one entry for each call, then `beside`, then `result`, always.

    `how` is `answered` only when every answer is there (values or exceptions). `detail` is in words.
    Times in milliseconds, `memory_mb` the peak resident size where the jail can tell it. `starved`: it ran
    into its wall time because others had the processors, or somebody killed it, perhaps not itself: it is run
    once more. For a script: `status`, its exit status (None if it
    did not exit by itself), and all it wrote to `stdout` and `stderr`.
    """

    how: How
    detail: str
    answers: tuple[Answer, ...]
    cpu_ms: float
    wall_ms: float
    memory_mb: float | None
    stdout_tail: str
    stderr_tail: str
    starved: bool = False
    status: int | None = None
    stdout: bytes = b""
    stderr: bytes = b""
