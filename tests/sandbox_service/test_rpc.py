"""Tests that run in the judge and ask the program: honest ones pass, and no answer forges one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox_service.judge import Judge
from sandbox_service.rpc_plan import NotRemote, remote
from shared.errors import InvalidRequest
from shared.wire import Assurance, JudgeJob, Limits, Verdict

LIMITS = Limits(cpu_s=1, wall_s=6)

# name: (program, tests). All pass, and would pass beside the program too.
HONEST: dict[str, tuple[str, list[str]]] = {
    "a check function": (
        "def add(a, b):\n    return a + b",
        ["def check(candidate):\n    for i in range(20):\n        assert candidate(i, 1) == i + 1\n"
         "check(add)"],
    ),
    "random inputs against a reference": (
        "def median(xs):\n    xs = sorted(xs)\n    return xs[len(xs) // 2]",
        [
            "import random\nrandom.seed(1)\nfor _ in range(20):\n"
            "    xs = [random.randint(0, 99) for _ in range(5)]\n    assert median(xs) == sorted(xs)[2]"
        ],
    ),
    "an argument changed in place": (
        "def sort(xs):\n    xs.sort()\n    xs[0].append(9)",
        ["xs = [[3], [1], [2]]\ninner = xs[1]\nfor _ in range(2): sort(xs)\n"
         "assert xs == [[1, 9, 9], [2], [3]]"],
    ),
    "an object that keeps state": (
        "class Stack:\n    def __init__(self): self.items = []\n    def push(self, x): self.items.append(x)\n"
        "    def pop(self): return self.items.pop()\n    def __len__(self): return len(self.items)",
        ["s = Stack()\ns.push(3)\ns.push(4)\nassert len(s) == 2\nassert s.pop() == 4\nassert s.items == [3]"],
    ),
    "operators of the program's objects": (
        "class V:\n    def __init__(self, x): self.x = x\n    def __add__(self, o): return V(self.x + o.x)\n"
        "    def __eq__(self, o): return self.x == o.x\n    def __lt__(self, o): return self.x < o.x\n"
        "    def __getitem__(self, i): return self.x * i\n    def __repr__(self): return f'V({self.x})'",
        ["a, b = V(1), V(2)\nassert a + b == V(3)\nassert a < b and a != b\nassert b[4] == 8\n"
         "assert repr(a) == 'V(1)' and f'{a}' == 'V(1)'"],
    ),
    "exceptions, the program's own too": (
        "class Low(ValueError): pass\ndef f(x):\n    if x < 0: raise Low('below')\n    return [1][x]",
        ["import pytest\ntry:\n    f(-1)\nexcept Low as error:\n    assert str(error) == 'below'\nelse:\n"
         "    assert False\nwith pytest.raises(IndexError): f(3)"],
    ),
    "what an exception carries": (
        "class E(Exception):\n    def __init__(self, code):\n        super().__init__(code)\n"
        "        self.code = code\n    def told(self): return [self.code]\n"
        "class F(E, ValueError): pass\n"
        "def f(x): raise x\ndef kind(g):\n    try: g()\n    except LookupError as e: return e.args\n"
        "def key(): raise KeyError('a')\ndef own(): raise F(404)",
        ["try: key()\nexcept KeyError as e: assert e.args == ('a',) and str(e) == \"'a'\"\nelse: assert 0",
         "try: own()\nexcept E as e: assert e.args == (404,) and e.code == 404 and e.told() == [404]\n"
         "else: assert 0\ntry: own()\nexcept ValueError as e: assert type(e).__name__ == 'F'",
         "def g(): return {}['x']\nassert kind(g) == ('x',)",
         "try: own()\nexcept (F, E) as e: assert str(e) == '404'\nelse: assert 0\n"
         "assert issubclass(F, E) and issubclass(F, ValueError) and not issubclass(E, ValueError)"],
    ),
    "functions of the test": (
        "def each(g, xs):\n    return [g(x) for x in xs]",
        ["k = 3\nseen = []\ndef g(x):\n    seen.append(x)\n    return x * k\n"
         "assert each(g, [1, 2]) == [3, 6]\nassert seen == [1, 2]\nassert each(str, (1,)) == ['1']"],
    ),
    "a function of the test that calls the program": (
        "def apply(g, x): return g(x)\ndef twice(x): return 2 * x",
        ["for _ in range(2):\n    assert apply(lambda x: twice(x) + 1, 4) == 9"],
    ),
    "a function of the test that raises": (
        "def safe(g):\n    try:\n        return g()\n    except KeyError:\n        return 'missing'",
        ["def g(): return {}['x']\nassert safe(g) == 'missing'"],
    ),
    "a class of unittest": (
        "def f(x): return x * 2",
        ["import unittest\nclass T(unittest.TestCase):\n    def setUp(self): self.x = 2\n"
         "    def test_a(self): self.assertEqual(f(self.x), 4)\n"
         "    def test_b(self):\n        with self.assertRaises(TypeError): f(None)"],
    ),
    "functions as pytest collects them": (
        "def half(x): return x / 2",
        ["import pytest\ndef test_half():\n    assert half(3) == pytest.approx(1.5)\n"
         "def test_more():\n    assert [half(x) for x in (2, 4)] == [1, 2]"],
    ),
    "a generator without an end": (
        "def count():\n    i = 0\n    while True:\n        yield i\n        i += 1",
        ["it = count()\nfor i in range(4):\n    assert next(it) == i"],
    ),
    "values of the library": (
        "import datetime, decimal, collections\ndef f(x): return x\ndef g(d): return d.year",
        ["import datetime, decimal, fractions, collections\n"
         "for x in (decimal.Decimal('1.5'), fractions.Fraction(1, 3), datetime.date(2020, 1, 2), {1: {2}},\n"
         "          collections.deque([1]), b'x', 1e300, -0.0, 10 ** 50, (1, [2, {3: 'é'}]), range(3)):\n"
         "    assert f(x) == x and type(f(x)) is type(x)\nassert g(datetime.date(1999, 1, 1)) == 1999"],
    ),
    "a helper of the setup": (
        "def f(x): return x + 1",
        ["for i in range(3):\n    assert f(i) == expected(i)"],
    ),
    "a global of the program": (
        "LIMITS = {'a': 3}\ndef f(): return 1",
        ["for k in LIMITS:\n    assert LIMITS[k] == 3"],
    ),
}  # fmt: skip

# name: (program, tests, the outcomes that are right)
FORGED: dict[str, tuple[str, list[str], tuple[str, ...]]] = {
    "an object that equals everything": (
        "class A:\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n"
        "    def __lt__(s, o): return True\n    def __contains__(s, o): return True\n"
        "    def __len__(s): return 3\n    def __iter__(s): return iter([A()] * 3)\n"
        "    def __hash__(s): return 0\n    def __sub__(s, o): return 0.0\n"
        "    __rsub__ = __mod__ = __xor__ = __sub__\n"
        "def f(x): return A()",
        [
            "for i in range(3): assert i - f(i) == 0",
            "for i in range(3): assert not f(i) ^ i",
            "for i in range(3): assert f(i) == i",
            "for i in range(3): assert not f(i) != i",
            "for i in range(3): assert f(i) in (i,)",
            "for i in range(3): assert i in f(i)",
            "for i in range(3): assert f(i) < i + 1",
            "for i in range(3): assert f(i) in {i: 1}",
            "for i in range(3): assert sorted(f(i)) == [1, 2, 3]",
            "for i in range(3): assert list(f(i)) == [1, 2, 3]",
            "for i in range(3): assert abs(f(i) - i) < 1e-9",
        ],
        ("failed", "raised"),
    ),
    "leaving": (
        "import os\ndef f(x): os._exit(0)",
        ["for i in range(2):\n    try: f(i)\n    except: pass"] * 2,
        ("failed",),
    ),
    "sys.exit": (
        "import sys\ndef f(x): sys.exit(0)",
        ["for i in range(2): assert f(i) == i"],
        ("failed", "raised"),
    ),
    "raising an assertion's end": ("def f(x): raise SystemExit(0)", ["for i in range(2): assert f(i) == i"],
                                   ("failed", "raised")),
    "raising GeneratorExit": ("def f(x): raise GeneratorExit", ["for i in range(2): assert f(i) == i"],
                              ("failed", "raised")),
    "frames on every descriptor": (
        "import os, struct\n"
        "def f(x):\n"
        "    for fd in range(3, 30):\n"
        "        for frame in (struct.pack('!IcfI', 0, b'v', 0, 8) + b'[\"i\",\"0\"]',\n"
        "                      b'R' + bytes(4), b'E' + bytes(4)):\n"
        "            try: os.write(fd, frame)\n"
        "            except OSError: pass\n"
        "    return 0",
        ["for i in range(1, 3): assert f(i) == i"],
        ("failed", "raised", "timeout"),
    ),
    "calls of the test's functions that were not given": (
        "import sys\n"
        "def f(x):\n"
        "    from sandbox_service.inside import serve\n"
        "    frame = sys._getframe()\n"
        "    while not isinstance(frame.f_locals.get('self'), serve.Server):\n"
        "        frame = frame.f_back\n"
        "    server = frame.f_locals.get('self')\n"
        "    return server.call_back(0, (), {})",
        ["for i in range(2): assert f(i) == i"],
        ("failed", "raised"),
    ),
    "swallowing what is asked": (
        "import os\ndef f(x):\n    os.read(3, 1 << 16)\n    return x",
        ["for i in range(2):\n    assert f(i) == i\n    assert g(i) == i"],
        ("failed", "raised", "timeout"),
    ),
    "a flood of answers": (
        "import os\ndef f(x):\n    while True: os.write(4, bytes(1 << 16))",
        ["for i in range(2): assert f(i) == i"],
        ("failed", "output_limit"),
    ),
    "a loop": ("def f(x):\n    while True: pass", ["for i in range(2): assert f(i) == i"], ("timeout",)),
    "memory": ("def f(x):\n    y = []\n    while True: y.append(bytearray(1 << 20))",
               ["for i in range(2): assert f(i) == i"], ("memory", "raised", "timeout")),
    "names that are not there": ("def g(x): return x", ["for i in range(2): assert f(i) == i"], ("raised",)),
    "a program that does not load": ("def f(:", ["for i in range(2): assert f(i) == i"], ("raised",)),
    "patched builtins and codec": (
        "import builtins\nfrom sandbox_service.inside import codec, serve\n"
        "codec.encode = lambda *a: b'[\"B\",1]'\nserve.codec.encode = codec.encode\nbuiltins.print = None\n"
        "def f(x): return x + 1",
        ["for i in range(2, 5): assert f(i) == i"],
        ("failed", "raised"),
    ),
    "a number too long, a text too long, a value too deep": (
        "def f(x):\n    y = []\n    for _ in range(500): y = [y]\n"
        "    return (10 ** 100000, 'x' * (4 << 20), y)[x]",
        ["for i in range(3):\n    try:\n        same = f(i) == i\n    except Exception: same = False\n"
         "    assert same"],
        ("failed", "raised"),
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def ask(cell: Any) -> Iterator[Any]:
    """Judge a program by tests in one real jail."""
    made: list[Judge] = []

    async def start() -> Judge:
        return Judge(talks=2)

    judge = cell.wait(start())
    made.append(judge)

    def asked(program: str, tests: list[str], least: Assurance = "rpc", setup: str = "") -> Verdict:
        job = JudgeJob(program=program, tests=tests, limits=LIMITS, setup=setup)
        verdict = cell.wait(asyncio.wait_for(judge.judge(judge.plan(job, least), cell.pool), 60))
        assert isinstance(verdict, Verdict)
        return verdict

    yield asked
    cell.wait(judge.aclose())


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_program_passes(ask: Any, name: str) -> None:
    program, tests = HONEST[name]
    verdict = ask(program, tests, setup="def expected(i): return i + 1" if "helper" in name else "")
    assert [(test.outcome, test.message) for test in verdict.tests] == [("passed", "")] * len(tests)
    assert verdict.assurance == "rpc"


@pytest.mark.parametrize("name", FORGED)
def test_no_program_forges_a_pass_and_the_next_one_is_judged_rightly(ask: Any, cell: Any, name: str) -> None:
    program, tests, right = FORGED[name]
    verdict = ask(program, tests)
    assert all(test.outcome in right for test in verdict.tests), verdict.tests
    cell.is_honest()
    assert ask(*HONEST["a check function"]).passed


def test_the_program_never_sees_what_is_expected(ask: Any) -> None:
    program = (
        "import gc, os, sys\nseen = []\n"
        "def f(x):\n"
        "    text = repr([o for o in gc.get_objects() if type(o) in (list, tuple, dict)])\n"
        "    with open('/proc/self/cmdline') as file: text += file.read()\n"
        "    seen.append(str(int('6552') * 10 + 1) in text)\n"
        "    return x * 10\n"
        "def any_seen(): return any(seen)"
    )
    secret = "for x, y in ((1, 10), (2, 20), (3, 65521)):\n    f(x) == y\nassert not any_seen()"
    verdict = ask(program, [secret])
    assert verdict.tests[0].outcome in ("passed", "raised"), verdict  # raised: a jail that shows no /proc
    assert verdict.tests[0].outcome == "passed" or "Errno" in verdict.tests[0].message


def test_levels_are_kept_apart_and_the_verdict_names_the_weakest(ask: Any) -> None:
    loop, plain = "for i in range(2): assert f(i) == i", "assert f(5) == 5"
    verdict = ask("def f(x): return x", [loop, plain])
    assert [test.assurance for test in verdict.tests] == ["rpc", "value"]
    assert verdict.assurance == "rpc"
    with pytest.raises(InvalidRequest, match="judged at `rpc`"):
        ask("def f(x): return x", [loop, plain], least="value")


def test_a_test_that_passes_what_cannot_cross_gets_no_verdict(ask: Any) -> None:
    test = "class Node:\n    v = 1\nfor _ in range(2):\n    try: f(Node())\n    except BaseException: pass"
    with pytest.raises(InvalidRequest, match="class `Node` is passed to the program"):
        ask("def f(x): return 1", [test])


def test_a_test_without_an_end_is_no_pass_and_costs_those_after_it_only(ask: Any) -> None:
    started = time.monotonic()
    verdict = ask("def f(x): return x", ["assert f(1) == 1", "f(1)\nwhile True: pass", "for i in [1]: f(i)"])
    assert [test.outcome for test in verdict.tests] == ["passed", "failed", "failed"]
    assert time.monotonic() - started < 30
    assert ask(*HONEST["a check function"]).passed


@pytest.mark.parametrize(
    ("test", "line", "reason"),
    [
        ("import numpy\nfor i in range(2): assert f(i)", 1, "module `numpy`"),
        ("x = 1\nfor line in open('f'): f(line)", 2, "`open`"),
        ("class A(Base):\n    pass\nassert A().f() == 1", 1, "derives from `Base` of the program"),
        ("def check(candidate):\n    assert candidate(1) == 2", 1, "never calls it"),
        ("for i in range(3): assert i >= 0", 1, "never calls the program"),
        ("from solution import *\nassert f(1)", 1, "hides what it binds"),
        ("async def t():\n    assert f(1)", 1, "async"),
    ],
)
def test_what_cannot_run_in_the_judge_is_named_with_its_line(test: str, line: int, reason: str) -> None:
    with pytest.raises(NotRemote, match=reason) as caught:
        remote(test, "")
    assert caught.value.line == line


def test_a_cancelled_conversation_frees_its_worker(cell: Any) -> None:
    async def cancelled() -> int:
        judge = Judge(talks=1)
        slow = JudgeJob(
            program="import time\ndef f(x): time.sleep(30)", tests=["for i in [1]: f(i)"],
            limits=Limits(cpu_s=1, wall_s=60),
        )  # fmt: skip
        task = asyncio.create_task(judge.judge(judge.plan(slow), cell.pool))
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        honest = JudgeJob(program="def f(x): return x", tests=["for i in [1]: assert f(i) == i"])
        verdict = await judge.judge(judge.plan(honest), cell.pool)
        await judge.aclose()
        return int(verdict.passed)

    assert cell.wait(asyncio.wait_for(cancelled(), 30)) == 1
