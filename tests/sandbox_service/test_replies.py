"""Whatever bytes come from a jail, the service neither trusts nor stumbles."""

from __future__ import annotations

import os
import random

import pytest

from sandbox_service.inside import frames
from sandbox_service.replies import Collected, Frames, LaneBroken

NONCE = bytes(range(16))
LOADED = frames.ANSWER.pack(frames.LOAD, frames.VALUE, 0.001, 0)


def end(reason: bytes = frames.EXIT, status: int = 0) -> bytes:
    return frames.END.pack(reason, status, 1.0, 10.0, -1.0, 2048, True)


def answer(
    index: int, payload: bytes = b'["N"]', status: bytes = frames.VALUE, seconds: float = 0.001
) -> bytes:
    return frames.ANSWER.pack(index, status, seconds, len(payload)) + payload


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_frames_are_cut_the_same_however_they_arrive(size: int) -> None:
    stream = b"".join(
        frames.REPLY.pack(kind, NONCE, len(payload)) + payload
        for kind, payload in ((frames.READY, b""), (frames.STDOUT, b"x" * 50), (frames.ENDED, end()))
    )
    parser, found = Frames(), []
    for at in range(0, len(stream), size):
        found += parser.feed(stream[at : at + size])
    assert [(frame.kind, len(frame.payload)) for frame in found] == [
        (b"R", 0),
        (b"O", 50),
        (b"Z", len(end())),
    ]


def test_a_frame_of_unknown_kind_or_too_long_breaks_the_lane() -> None:
    for kind, length in ((b"?", 1), (frames.STDOUT, frames.CHUNK + 1), (frames.ANSWERS, 2**32 - 1)):
        with pytest.raises(LaneBroken):
            Frames().feed(frames.REPLY.pack(kind, NONCE, length))


@pytest.mark.parametrize(
    "stream",
    [
        answer(0),  # an answer before the load
        LOADED + answer(1),  # the second before the first
        LOADED + answer(0) + answer(0),  # one twice
        LOADED + answer(0) + answer(1) + answer(2),  # more than were asked for
        LOADED + LOADED,
        LOADED + answer(0, status=b"?"),
        LOADED + frames.ANSWER.pack(0, frames.VALUE, 0.0, frames.ANSWER_MAX + 1),
        frames.ANSWER.pack(frames.LOAD, frames.RAISED, 0.0, 0) + answer(0),  # an answer after a failed load
    ],
)
def test_an_answer_stream_out_of_order_is_a_program_that_crashed(stream: bytes) -> None:
    collected = Collected(2)
    for at in range(0, len(stream), 5):
        collected.answer_bytes(stream[at : at + 5])
    ended = collected.ended(end())
    assert ended.how in ("crashed", "load_error")
    assert len(ended.answers) == 2


def test_noise_never_raises_and_never_makes_an_answer_too_many() -> None:
    chance = random.Random(7)
    for _ in range(500):
        collected = Collected(3)
        collected.answer_bytes(LOADED if chance.random() < 0.5 else b"")
        for _ in range(chance.randrange(4)):
            collected.answer_bytes(chance.randbytes(chance.randrange(40)))
            collected.answer_bytes(
                answer(chance.randrange(4), seconds=chance.choice([0.1, -5.0, float("nan")]))
            )
        ended = collected.ended(end())
        assert len(ended.answers) == 3
        assert all(0 <= one.wall_ms <= ended.wall_ms for one in ended.answers)


def test_a_claimed_time_is_bounded_by_the_measured_one() -> None:
    collected = Collected(1)
    collected.answer_bytes(LOADED + answer(0, seconds=1e30))
    assert collected.ended(end()).answers[0].wall_ms == 10.0


@pytest.mark.parametrize(
    ("reason", "how"),
    [
        (frames.CPU, "timeout"), (frames.WALL, "timeout"), (frames.OUTPUT, "output_limit"),
        (frames.MEMORY, "memory"),
    ],
)  # fmt: skip
def test_a_limit_counts_even_when_every_answer_is_there(reason: bytes, how: str) -> None:
    collected = Collected(1)
    collected.answer_bytes(LOADED + answer(0))
    assert collected.ended(end(reason)).how == how


def test_a_death_by_signal_is_named() -> None:
    collected = Collected(1)
    collected.answer_bytes(LOADED)
    ended = collected.ended(end(status=11))
    assert (ended.how, ended.detail) == ("crashed", "killed by SIGSEGV before answer 1 of 1")
    assert os.WIFSIGNALED(11)


def test_only_the_tail_of_the_output_is_kept() -> None:
    collected = Collected(0)
    for number in range(1000):
        collected.output(frames.STDOUT, b"%04d\n" % number * 10)
    ended = collected.ended(end())
    assert len(ended.stdout_tail) == 4096
    assert ended.stdout_tail.endswith("0999\n")
