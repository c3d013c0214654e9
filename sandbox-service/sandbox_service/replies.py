"""Read what a lane sends, and make of it how a run ended. Every byte here may come from an attacker.

Two layers: the zygote's frames, where any irregularity means a broken lane (LaneBroken), and inside them
the candidate's own answer stream, where any irregularity is just a program that did not answer.
"""

from __future__ import annotations

import os
import signal
from typing import NamedTuple

from sandbox_service.inside import frames
from sandbox_service.run import Answer, AnswerStatus, Ended, How

TAIL = 4096
_KINDS = {frames.READY, frames.ANSWERS, frames.STDOUT, frames.STDERR, frames.ENDED}
_STATUSES: dict[bytes, AnswerStatus] = {frames.VALUE: "value", frames.RAISED: "raised"}


class LaneBroken(Exception):
    """A zygote died, stopped answering, or sent what no zygote sends."""


class Frame(NamedTuple):
    """One frame of a zygote."""

    kind: bytes
    nonce: bytes
    payload: bytes


class Frames:
    """Cut a zygote's byte stream into frames."""

    def __init__(self) -> None:
        self.buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are complete now; raise LaneBroken on a header no zygote writes."""
        self.buffer += data
        found, at, size = [], 0, frames.REPLY.size
        while len(self.buffer) - at >= size:
            kind, nonce, length = frames.REPLY.unpack_from(self.buffer, at)
            if kind not in _KINDS or length > frames.CHUNK:
                raise LaneBroken(f"a malformed frame: kind {kind!r}, {length} bytes")
            if len(self.buffer) - at - size < length:
                break
            found.append(Frame(kind, nonce, bytes(self.buffer[at + size : at + size + length])))
            at += size + length
        del self.buffer[:at]
        return found


class Collected:
    """What one run has sent so far."""

    def __init__(self, expected: int, serves: bool = False, script: bool = False) -> None:
        self.expected, self.serves, self.script = expected, serves, script
        self.said: list[tuple[bytes, bytes]] = []  # to a test, after the expected answers
        self.counted = self.asked = 0  # answers there are, and questions of a test: each has one answer
        self.released = not serves  # whether the test is over, so that the program may end
        self.answers: list[Answer] = []
        self.loaded: bytes | None = None
        self.load_text = ""
        self.malformed = ""
        self.stdout, self.stderr = bytearray(), bytearray()
        self._buffer = bytearray()

    def output(self, kind: bytes, data: bytes) -> None:
        """Keep the tail of a stream, of a script's all: the zygote holds it to the output limit."""
        tail = self.stdout if kind == frames.STDOUT else self.stderr
        tail += data
        if not self.script:
            del tail[: max(0, len(tail) - TAIL)]

    def answer_bytes(self, data: bytes) -> None:
        """Take a piece of the answer stream; after a fault it is not read on."""
        if self.malformed:
            return
        self._buffer += data
        at, size = 0, frames.ANSWER.size
        while len(self._buffer) - at >= size:
            index, status, seconds, length = frames.ANSWER.unpack_from(self._buffer, at)
            self.malformed = self._fault(index, status, length)
            if self.malformed or len(self._buffer) - at - size < length:
                break
            self._take(status, seconds, bytes(self._buffer[at + size : at + size + length]))
            at += size + length
        del self._buffer[:at]

    def _fault(self, index: int, status: bytes, length: int) -> str:
        if self.loaded is None:
            known = index == frames.LOAD and length <= frames.RAISED_MAX
            return "" if known else "the answer stream does not begin with the program's load"
        if self.loaded != frames.VALUE or index != self.counted or index >= self.expected + self.asked:
            return "the answer stream has an answer that was not asked for"
        if status == frames.CALLED and index >= self.expected:
            return "" if length <= frames.ANSWER_MAX else "a call of the test's that is too long"
        most = {frames.VALUE: frames.ANSWER_MAX, frames.RAISED: frames.RAISED_MAX}.get(status, -1)
        return "" if length <= most else "the answer stream has an answer of no known form"

    def _take(self, status: bytes, seconds: float, payload: bytes) -> None:
        if self.loaded is None:
            self.loaded, self.load_text = status, payload.decode("utf-8", "replace")
            return
        self.counted += 1
        if len(self.answers) < self.expected:
            self.answers.append(Answer(_STATUSES[status], payload, seconds * 1e3))
        else:
            self.said.append((status, payload))

    @property
    def asked_may_begin(self) -> bool:
        """Whether all plain answers are there, and a test may ask on."""
        return self.serves and self.loaded == frames.VALUE and len(self.answers) == self.expected

    def ended(self, payload: bytes) -> Ended:
        """Make the end of the run of the zygote's last frame; raise LaneBroken where that is malformed."""
        if len(payload) != frames.END.size:
            raise LaneBroken(f"an end of {len(payload)} bytes")
        reason, status, cpu_ms, wall_ms, waited_ms, peak_kb, _ = frames.END.unpack(payload)
        how, detail = self._how(reason, status)
        if how == "timeout" and waited_ms >= 0:
            detail += f", {waited_ms:.0f} ms of it waiting for a processor"
        answers = [Answer(a.status, a.payload, _within(a.wall_ms, wall_ms)) for a in self.answers]
        missing = (Answer("missing", b"", 0.0),) * (self.expected - len(answers))
        return Ended(
            how=how,
            detail=detail,
            answers=(*answers, *missing),
            cpu_ms=cpu_ms,
            wall_ms=wall_ms,
            memory_mb=peak_kb / 1024 if peak_kb else None,
            stdout_tail=self.stdout[-TAIL:].decode("utf-8", "replace"),
            stderr_tail=self.stderr[-TAIL:].decode("utf-8", "replace"),
            status=os.waitstatus_to_exitcode(status) if self.script and os.WIFEXITED(status) else None,
            stdout=bytes(self.stdout) if self.script else b"",
            stderr=bytes(self.stderr) if self.script else b"",
            starved=(reason == frames.WALL and _was_starved(cpu_ms, wall_ms, waited_ms))
            or (reason == frames.EXIT and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL),
        )

    def _how(self, reason: bytes, status: int) -> tuple[How, str]:
        at = f"before answer {len(self.answers) + 1} of {self.expected}" if self.loaded else "while loading"
        if self.asked_may_begin:
            at = "while a test asked it"
        match reason:
            case frames.CPU:
                return "timeout", f"CPU time limit {at}"
            case frames.WALL:
                return "timeout", f"wall time limit {at}"
            case frames.OUTPUT:
                return "output_limit", f"output limit {at}"
            case frames.MEMORY:
                return "memory", f"memory limit of all processes together {at}"
        if self.loaded not in (None, frames.VALUE):
            kinds: dict[bytes, How] = {
                frames.EXITED: "exited",
                frames.NO_MEMORY: "memory",
                frames.NO_PROCESS: "process_limit",
            }
            return kinds.get(self.loaded or b"", "load_error"), self.load_text
        if self.malformed:
            return "crashed", self.malformed
        if self.script and os.WIFEXITED(status):
            return "answered", ""
        if self.loaded and len(self.answers) == self.expected and self.released:
            return "answered", ""
        if os.WIFSIGNALED(status):
            return "crashed", f"killed by {_signal_name(os.WTERMSIG(status))} {at}"
        return "exited", f"exit status {os.waitstatus_to_exitcode(status)} {at}"


def _within(claimed_ms: float, most_ms: float) -> float:
    """Bound what the candidate's process says of its own time by what was measured outside."""
    return min(claimed_ms, most_ms) if claimed_ms >= 0 else 0.0


def _was_starved(cpu_ms: float, wall_ms: float, waited_ms: float) -> bool:
    """Whether a program that ran into its wall time was kept from running rather than asleep.

    Where the jail cannot see how long it waited for a processor, little CPU time is taken as a sign.
    """
    return waited_ms > 0.2 * wall_ms if waited_ms >= 0 else cpu_ms < 0.1 * wall_ms


def is_clean(payload: bytes) -> bool:
    """Whether the zygote says that nothing is left of the run."""
    return len(payload) == frames.END.size and bool(frames.END.unpack(payload)[-1])


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
