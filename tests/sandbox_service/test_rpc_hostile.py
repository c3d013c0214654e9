"""Programs that speak out of turn to a test in the judge: of how it goes on, of types, of others' numbers."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from tests.sandbox_service.test_rpc_shared import ask, in_one_jail

from sandbox_service.judge import Judge
from shared.wire import JudgeJob

__all__ = ["ask"]

CASE = (
    "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): self.assertTrue(f)\n"
    "    def test_b(self): "
)
SETS = (
    "class L:\n    o = range(100)\n    def difference(s, o): L.o = o; return set()\n"
    "    def __iter__(s): return iter(L.o)\nclass S(set): difference = L.difference\n"
    "def f(x): return L()\ndef g(): return S()"
)
POINT = "class P:\n    def __init__(s, x): s.x = x\n    def __eq__(s, o): return s.x == o.x"
SAYS = (
    "from sandbox_service.inside import serve\nclass A:\n    def isupper(s): return True\n"
    "def f(x): return A()\nold = serve.Server.encode\ndef encode(self, value, changed=False):\n"
    "    return {what} if value is A or type(value) is A else old(self, value, changed)\n"
    "serve.Server.encode = encode"
)

EACH = "def each(g, seen):\n    try: g(1)\n    except Exception: pass\n    return list(seen)"
SERVER = (
    "import sys\nfrom sandbox_service.inside import serve, frames\ndef f(g):\n    frame = sys._getframe()\n"
    "    while not isinstance(frame.f_locals.get('self'), serve.Server): frame = frame.f_back\n"
    "    server = frame.f_locals['self']\n"
)
CALLS = SERVER + "    server.send(frames.CALLED, serve._part(0, server.encode({what})))"
FLOOD = SERVER + (
    "    call = serve._part(0, server.encode((0, (1,), ())))\n"
    "    while True: server.send(frames.CALLED, call)"
)

# Each fails in one process with the program, or nobody in the judge can tell.
FORGED = [
    ("import unittest.case\ndef f(x): raise unittest.case._ShouldStop", CASE + "self.assertEqual(f(1), 2)"),
    ("import unittest\ndef f(x): raise unittest.SkipTest('no')", CASE + "self.assertEqual(f(1), 2)"),
    (SETS, CASE + "self.assertSetEqual(f(1), {1, 7})"),
    (SETS, CASE + "self.assertSetEqual({1, 7}, f(1))"),
    (SETS, CASE + "self.assertSetEqual(g(), {7})"),
    ("def f(x): return x", CASE + "x = (1, [2]); self.assertIsNot(f(x), x)"),
    (POINT, "for _ in [1]: assert P(1) != 'a'"),
    (POINT, "for _ in [1]: assert not P(1) == 3"),
    ("class P:\n    def __eq__(s, o): return True", "for _ in [1]: assert P() != 3"),
    ("class P:\n    def __eq__(s, o): return True", "for _ in [1]: assert not P() == 3"),
    ("def f(x): raise SystemExit", "for _ in [1]:\n    try: f(1)\n    except Exception: pass"),
    ("class B(BaseException): pass\ndef f(x): raise B", "import pytest\nwith pytest.raises(Exception): f(1)"),
    ("class S(TypeError):\n    def __str__(s): return 5\ndef f(x): raise S",
     "import pytest\nwith pytest.raises(ValueError): f(1)"),
    (SAYS.format(what="b'no'"), "import pytest\nwith pytest.raises(ValueError): f(1)"),
    ("from sandbox_service.inside import mirrors\ndef f(x): mirrors.Mirrors.unheld = lambda self: ['no']",
     "import pytest\nwith pytest.raises(ValueError): f(1)"),
    (CALLS.format(what="5"), "import pytest\nwith pytest.raises(TypeError): f(1)"),
    ("class V(str):\n    def __eq__(s, o): return True", "for _ in [1]: assert not V('1') == 'a'"),
    ("class V(list):\n    def __ne__(s, o): return False", "for _ in [1]: assert V([1]) != [2]"),
    ("class V(int):\n    def __eq__(s, o): return s.x == o.x", "for _ in [1]: assert not V(1) == 2"),
    ("def f(x): return object()", "for _ in [1]: assert hasattr(f(1), '__next__')"),
    ("class C: pass", "for _ in [1]: assert callable(getattr(C(), '__len__', None))"),
    (SAYS.format(what="b'[\"py\",[\"s\",\"builtins\"],[\"s\",\"str\"]]' if value is A else old(self, value)"),
     "for _ in [1]:\n    r = f(1)\n    assert type(r) is str and r.isupper()"),
    (SAYS.format(what="b'[\"py\",[\"s\",\"collections\"],[\"s\",\"_itemgetter\"]]'"),
     "def g(): return f(1)\nassert f(g()) == 1"),
    (SAYS.format(what="b'[\"k\",\"L\",\"0x9\",\"0x8\",[\"t\",[]],[\"m\",\"-0x1\",[\"l\",[]]]]'"),
     "x = [1]\nassert f(x) == [] and x == [1]"),
]  # fmt: skip


@in_one_jail
@pytest.mark.parametrize(("program", "test"), FORGED)
def test_what_does_not_hold_does_not_pass(ask: Any, program: str, test: str) -> None:
    assert ask(program, test).outcome in ("failed", "raised")


@in_one_jail
@pytest.mark.parametrize(
    ("program", "test"),
    [
        (EACH, "class S(Exception): pass\nseen = []\ndef g(x):\n    seen.append(x)\n    raise S(1)\n"
         "assert each(g, seen) == [1] == seen and each(g, seen) == [1, 1]"),
        ("class V(int):\n    def __eq__(s, o): return int(s) == o",
         "for _ in [1]: assert V(0) == 0 and V(1) != 0 != V(2)"),
        ("import sys\ndef f(x): sys.exit(x)",
         "import pytest\nwith pytest.raises(SystemExit) as e: f(3)\nassert e.value.code == 3"),
        ("def f(x): return {x, 2}", CASE + "self.assertSetEqual(f(1), {1, 2})"),
        ("class S(set): pass\ndef f(x): return S([x])", CASE + "self.assertSetEqual({1}, f(1))"),
        ("def f(x): return [x]", CASE + "x = f(1); self.assertIsNot(f(1), x)"),
        (
            "class P:\n    def __len__(s): return 2",
            "p = P()\nassert hasattr(p, '__len__') and p != 3 and p != ''",
        ),
        (
            "def f(): yield 1",
            "for _ in [1]: assert hasattr(f(), '__next__') and getattr(f(), '__len__', 5) == 5",
        ),
    ],
)  # fmt: skip
def test_what_holds_passes(ask: Any, program: str, test: str) -> None:
    assert [(one.outcome, one.message) for one in ask(program, test).tests] == [("passed", "")]


@in_one_jail
def test_a_test_has_nothing_of_the_one_before_it(cell: Any) -> None:
    program = (
        "kept, calls = [], []\nclass L(list): pass\ndef g(): return L([1])\n"
        "def f(x): kept.append(x); return type(x).__name__, len(x)\n"
        "def every(h):\n    calls.append(h)\n    try: return calls[0](2)\n    except RuntimeError: return -1"
    )
    tests = (
        "x = [1, 2]\nassert f(x) == ('list', 2) and g() == [1]\nassert every(lambda x: x + 1) == 3",
        "x = {1: 2}\nassert f(x) == ('dict', 1) and g() == [1]\nassert every(lambda x: x + 7) == -1",
        "x = [9]\nassert f(x) == ('list', 1) and g() == [1] and kept == [[1, 2], {1: 2}, [9]]",
    )

    async def judged() -> Any:
        judge = Judge(talks=1)
        verdict = await judge.judge(judge.plan(JudgeJob(program=program, tests=[*tests])), cell.pool)
        await judge.aclose()
        return verdict

    verdict = cell.wait(asyncio.wait_for(judged(), 60))
    assert [(one.outcome, one.message) for one in verdict.tests] == [("passed", "")] * 3


@in_one_jail
def test_a_flood_of_calls_that_wait_for_no_result_ends_with_the_programs_limits(ask: Any) -> None:
    began = time.monotonic()
    outcome = ask(FLOOD, "def g(x): return x + 1\nassert f(g) == 3").outcome
    assert outcome in ("failed", "output_limit", "timeout")
    assert time.monotonic() - began < 10
