"""Programs are compiled while they wait for a lane: same verdicts, and nothing depends on the compiler."""

from __future__ import annotations

import asyncio
import marshal
import os
import re
import signal
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import httpx
import pytest

from sandbox_service import ahead, compile_worker
from sandbox_service.app import create_app
from sandbox_service.inside import compiling
from sandbox_service.run import Ended, Run
from sandbox_service.settings import SandboxSettings
from shared.wire import Limits

from .conftest import Cell, make_jail, wait_ready

LIMITS = Limits(cpu_s=2, wall_s=10, memory_mb=128, output_kb=64, file_mb=1, processes=8)
PROGRAMS = {
    "plain": ("def f(x):\n    return x * 2", ("f(1)", "f('a')")),
    "not Python": ("def f(x:\n    return x", ("f(1)",)),
    "a call that is not": ("def f(x):\n    return x", ("f(1)", "f(", "f(2)")),
    "raises": ("def f(x):\n    pass\n\nf(1, 2)", ("f(1)",)),
    "warned of": ("def f(x):\n    return x is 'a'", ("f('a')",)),
    "the future": ("from __future__ import annotations\ndef f(x: no): return f.__annotations__", ("f(1)",)),
    "a set": ("def f():\n    return [x for x in {'b', 8, 'a', 0, (1, 16), 24}]", ("f()",)),
    "too deep": ("x = " + "(" * 500 + ")" * 500, ("x",)),
    "no surrogate": ("def f():\n    return '\ud800'", ("f()",)),
    "a byte": ("def f():\n    return b'a'\nx = b'abc'[:1]", ("f() is x",)),
    "fewer digits": ("import sys\nsys.set_int_max_str_digits(640)", ("9" * 1000 + " % 7",)),
    "another compile": ("import builtins\nbuiltins.compile = None", ("1",)),
    "almost too deep": ("a = 1\nx = " + "-" * 2970 + "a", ("x", "-" * 2970 + "a")),
    "a line of its own": ("\n\n\ndef f():\n    raise ValueError(1)\nf()", ("f()",)),
}


@pytest.fixture(scope="module", params=["bwrap", "process"])
def lone(request: pytest.FixtureRequest) -> Any:
    """A cell of one lane, in each jail that needs no engine."""
    made = Cell(make_jail(request.param))
    yield made
    made.close()


def warmed(cell: Cell) -> None:
    """Wait until the compiler is there."""

    async def wait() -> None:
        end = time.monotonic() + 20
        while cell.pool.ahead.pid is None:
            cell.pool.ahead.start()
            assert time.monotonic() < end, "the compiler does not start"
            await asyncio.sleep(0.02)

    cell.wait(wait())


def together(cell: Cell, *runs: Run) -> list[Ended]:
    """Run all at a time: all but the first wait, long enough to be compiled."""

    async def gather() -> list[Ended]:
        hold = Run("import time\ntime.sleep(0.3)", "", ("1",), LIMITS)
        _, *ended = await asyncio.gather(*(cell.pool.run(run) for run in (hold, *runs)))
        return ended

    found: list[Ended] = cell.wait(gather())
    return found


async def gone(cell: Cell, pid: int | None) -> None:
    """Wait until the room has seen that a compiler has died."""
    end = time.monotonic() + 10
    while cell.pool.ahead.pid == pid:
        assert time.monotonic() < end, "it was not too dear"
        await asyncio.sleep(0.02)


def what_it_said(ended: Ended) -> tuple[Any, ...]:
    """Return all of an end that does not depend on the clock."""
    answers = [(one.status, one.payload) for one in ended.answers]
    return ended.how, ended.detail, answers, ended.stdout_tail, ended.stderr_tail


def test_a_run_that_waited_ends_as_one_that_did_not(lone: Cell) -> None:
    warmed(lone)
    runs = [Run(program, "", calls, LIMITS) for program, calls in PROGRAMS.values()]
    alone = [lone.wait(lone.pool.run(run)) for run in runs]
    made = lone.pool.ahead.made
    waited = together(lone, *runs)
    assert lone.pool.ahead.made >= made + 4, "next to nothing was compiled ahead"
    for name, one, other in zip(PROGRAMS, alone, waited, strict=True):
        assert what_it_said(other) == what_it_said(one), name


def test_a_set_is_in_the_same_order_whatever_else_has_its_members(lone: Cell) -> None:
    warmed(lone)
    sets = [f"'k{n}', {n + 97}, {n / 2 + 80.5}, {n + 300}.5, 'm{n}'" for n in range(60)]
    programs = [(f"x = [{members}]", f"[one for one in {{{members}}}]") for members in sets]
    runs = [Run(program, "", (call,), LIMITS) for program, call in programs]
    alone = [what_it_said(lone.wait(lone.pool.run(run))) for run in runs]
    assert [what_it_said(one) for one in together(lone, *runs)] == alone


LATER = "class Later:\n    def __init__(self, x):\n        self.x = x\ndef f(): return start.x"


def test_setup_and_result_are_compiled_too(lone: Cell) -> None:
    warmed(lone)
    made = lone.pool.ahead.made
    (ended,) = together(lone, Run(LATER, "start = Later(3)", ("f()",), LIMITS, result="start.x"))
    assert [(one.status, one.payload) for one in ended.answers] == [("value", b'["i","0x3"]')] * 2
    assert lone.pool.ahead.made == made + 1


def test_the_compiler_gets_no_test_that_runs_beside_the_program(lone: Cell) -> None:
    warmed(lone)
    made = lone.pool.ahead.made
    beside = ("assert f() == 3", "assert f() == 4")
    (ended,) = together(lone, Run(LATER, "start = Later(3)", ("f()",), LIMITS, beside=beside))
    assert [one.status for one in ended.answers] == ["value", "value", "raised"]
    assert lone.pool.ahead.made == made


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_runs_get_their_answers_without_the_compiler(
    cell_in: Callable[..., Cell], how: signal.Signals
) -> None:
    cell = cell_in(make_jail("process"))
    warmed(cell)
    pid = cell.pool.ahead.pid
    assert pid is not None
    os.kill(pid, how)
    runs = [Run(f"def f():\n    return {n}", "", ("f()",), LIMITS) for n in range(20)]
    for n, ended in enumerate(together(cell, *runs)):
        assert ended.answers[0].payload == b'["i","%s"]' % hex(n).encode()
    if how == signal.SIGKILL:
        warmed(cell)
        assert cell.pool.ahead.pid != pid


def test_a_text_that_is_too_dear_to_compile_costs_the_compiler_and_no_verdict(
    cell_in: Callable[..., Cell],
) -> None:
    cell = cell_in(make_jail("process"))
    cell.pool.ahead.cpu_s = 0.001
    cell.wait(cell.pool.ahead.aclose())
    time.sleep(1)  # a worker is started once a second at most
    warmed(cell)
    first = cell.pool.ahead.pid
    dear = "x = [" + "[a for a in b]," * 1000 + "]"
    assert len(dear) < 20_000
    honest = Run("def f():\n    return 7", "", ("f()",), LIMITS)
    ended = together(cell, Run(f"b = []\n{dear}", "", ("len(x)",), LIMITS), honest, honest)
    assert [one.answers[0].payload for one in ended] == [b'["i","0x3e8"]', b'["i","0x7"]', b'["i","0x7"]']
    cell.wait(gone(cell, first))


def test_a_compiler_that_answers_what_was_not_asked_is_ended(tmp_path: Path) -> None:
    liar = tmp_path / "python"
    answer = compile_worker.HEADER.pack(77, 3) + b"abc"
    text = "".join(f"\\{byte:03o}" for byte in answer)
    liar.write_text(f"#!/bin/sh\nhead -c 20 >/dev/null\nprintf '{text}'\nexec sleep 60\n")
    liar.chmod(0o755)
    took: list[bytes] = []

    async def ask() -> bool:
        one = ahead.Ahead(liar)
        one.start()
        end = time.monotonic() + 10
        while one.pid is None:
            await asyncio.sleep(0.01)
            assert time.monotonic() < end
        one.want(Run("x = 1" * 9, "", ("x",), LIMITS), took.append)
        while one.pid is not None and time.monotonic() < end:
            await asyncio.sleep(0.01)
        ended = one.pid is None
        await one.aclose()
        return ended

    assert _done(ask())
    assert not took


@pytest.mark.parametrize("ahead_", [True, False])
def test_the_setting_decides_and_the_metrics_say(live: Callable[[Any], str], ahead_: bool) -> None:
    settings = SandboxSettings(jail="process", lanes=1, spares=0, compile_ahead=ahead_)
    with httpx.Client(base_url=live(create_app(settings)), timeout=60) as client:
        wait_ready(client)
        time.sleep(0.5)  # the compiler starts beside the lanes
        job = {"program": "output = [1, 2]", "preamble": "sequence_dsl"}
        reply = client.post("/v1/execute", json={"jobs": [job] * 10})
        assert [one["value"] for one in reply.json()["executions"]] == [
            ["l", [["i", "0x1"], ["i", "0x2"]]]
        ] * 10
        counted = re.search(r"^sandbox_compiled_ahead (\S+)$", client.get("/metrics").text, re.MULTILINE)
        assert counted and (float(counted[1]) > 0) == ahead_


def test_without_an_interpreter_nothing_is_compiled_ahead() -> None:
    async def ask() -> int:
        one = ahead.Ahead(None)
        one.start()
        one.want(Run("x = 1", "", ("x",), LIMITS), lambda code: None)
        await asyncio.sleep(0)
        await one.aclose()
        return one.starts

    assert _done(ask()) == 0


def test_what_the_compiler_leaves_to_the_run() -> None:
    def compiled(program: str, *calls: str) -> bytes:
        return compile_worker.compiled(marshal.dumps(("", program, calls, None)))

    assert compiling.load(compiled("x = 1", "x")) is not None
    for program in ("x = ", "x = '\\0' * ", "\0", "x = " + "-" * 100_000 + "1"):
        assert compiled(program) == b"", program
    assert compiled("x = 1", "x +") == b""


def test_what_would_not_be_the_same_does_not_cross() -> None:
    sets = [frozenset([0, 8]), frozenset([8, 0])]
    assert list(sets[0]) != list(sets[1])
    made = marshal.dumps((0, (sets[0],)))
    assert sorted(compile_worker.crosses((0, (one,)), made) for one in sets) == [False, True]
    assert not compile_worker.crosses((b"a",), marshal.dumps((b"a",)))
    words = frozenset(["a", "b"])
    assert not compile_worker.crosses((words,), marshal.dumps((words,)))
    assert compile_worker.crosses((b"ab", "a"), marshal.dumps((b"ab", "a")))


def test_code_that_is_much_longer_than_its_text_does_not_cross() -> None:
    levels = range(9)
    text = "".join(f"{' ' * n}try:x\n{' ' * n}finally:\n" for n in levels) + " " * 9 + "x;" * 200
    assert len(marshal.dumps(compiling.program_code(text))) > 1000 * len(text)
    assert compile_worker.compiled(marshal.dumps(("", text, (), None))) == b""
    calls = tuple(f"f([{n}, {n}]) == {n}" for n in range(200))
    assert compile_worker.compiled(marshal.dumps(("", "def f(x): return x", calls, None)))


@pytest.mark.parametrize("data", [b"", b"junk", marshal.dumps(1), marshal.dumps((None, None))])
def test_code_that_cannot_be_read_is_no_code(data: bytes) -> None:
    assert compiling.load(data) is None


def test_another_loop_has_transports_of_its_own_kind() -> None:
    class Transport:  # uvloop's: neither is a subclass of asyncio's
        written = b""

        def get_pipe_transport(self, fd: int) -> Any:
            return self

        def write(self, data: bytes) -> None:
            self.written += data

    async def ask() -> bytes:
        transport: Any = Transport()
        pipe = ahead._Pipe(ahead.Ahead(None))
        pipe.connection_made(transport)
        pipe.ask(b"abc", lambda code: None)
        await asyncio.sleep(0)
        return bytes(transport.written)

    assert _done(ask()) == compile_worker.HEADER.pack(1, 3) + b"abc"


def _done(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)
