"""Tests in the judge test something: what only looks like a test is refused, what is defined is run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox_service import rpc_library
from sandbox_service.judge import Judge
from sandbox_service.rpc_plan import NotRemote, remote
from shared.errors import InvalidRequest
from shared.wire import JudgeJob, Limits, Verdict
from shared.wire_plan import PlanJob

DOUBLE, WRONG = "def f(x): return x * 2", "def f(x): return 1"
CALLED = "assert f(3) == 6"

# Each passes for every program, if it is run at all.
IDLE = {
    "a definition after an import and a call": (
        "import random\nrandom.seed(0)\ndef check(c=f):\n    assert c(3) == 6"
    ),
    "a definition under a loop": "for i in range(2): i += 1\ndef check():\n    assert f(3) == 6",
    "a class with a base": (
        "from enum import Enum\nclass C(Enum):\n    A = 1\ndef check():\n    assert f(3) == 6"
    ),
    "the guard of a script": (
        "import random\nrandom.seed(0)\ndef check(c): assert c(3) == 6\n"
        "if __name__ == '__main__':\n    check(f)"
    ),
    "a class without tests": (
        "from unittest import TestCase\nclass T(TestCase):\n    def check(self): self.assertEqual(f(3), 6)"
    ),
    "a name in a text": "x = 'f(3)'\nprint(x)\nassert True",
    "a function nobody calls": "g = lambda: f(3)\nprint(1)\nassert True",
    "a name alone": "for i in range(2): print(i)\nf",
    "if False": f"if False:\n    {CALLED}\nprint(1)",
    "after return": f"def check():\n    return\n    {CALLED}\ncheck()",
    "over nothing": f"for x in []:\n    {CALLED}\nprint(1)",
    "a method nobody calls": f"class A:\n    def go(self):\n        {CALLED}\na = A()\nprint(a)",
    "swallowed": f"for i in range(2):\n    try:\n        {CALLED}\n    except Exception:\n        pass",
    "swallowed and printed": (
        f"try:\n    {CALLED}\nexcept (TypeError, AssertionError) as e:\n    print('FAIL', e)"
    ),
    "swallowed by finally": f"def t():\n    try:\n        {CALLED}\n    finally:\n        return\nt()",
    "suppressed": f"import contextlib\nwith contextlib.suppress(Exception):\n    {CALLED}",
    "swallowed where it is called": f"def check():\n    {CALLED}\ntry:\n    check()\nexcept:\n    pass",
    "a tuple": "for i in range(2):\n    assert (f(i) == 2 * i, 'wrong')",
    "a lambda": "for i in range(2):\n    assert lambda: f(i) == 2 * i",
    "a value returned": "def test_f():\n    return f(3) == 6",
    "a generator": f"def test_f():\n    {CALLED}\n    yield",
    "an assignment": "x = f",
    "an assignment after a call": "import random\nrandom.seed(0)\nx = f",
    "only a hint": "def check(x: f) -> f: pass\ncheck(1)",
}  # fmt: skip

# Each fails for a program that answers 1, and passes for one that doubles.
LIVE = {
    "a test after a call": f"import random\nrandom.seed(0)\ndef test_f():\n    {CALLED}",
    "a case after a call": (
        "import unittest, random\nrandom.seed(0)\nclass T(unittest.TestCase):\n"
        "    def test_a(self): self.assertEqual(f(3), 6)\nif __name__ == '__main__':\n    unittest.main()"
    ),
    "an imported TestCase": (
        "from unittest import TestCase\nclass T(TestCase):\n    def test_a(self): self.assertEqual(f(3), 6)"
    ),
    "a base class of its own": (
        "import unittest as u\nclass Base(u.TestCase):\n    def setUp(self): self.g = f\n"
        "class T(Base):\n    def test_a(self): self.assertEqual(self.g(3), 6)\n"
        "    @u.skip('later')\n    def test_b(self): pass"
    ),
    "subtests": (
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self):\n        for i in (1, 2):\n"
        "            with self.subTest(i=i): self.assertEqual(f(i), 2 * i)"
    ),
    "a suite nobody looks at": (
        "import unittest\nclass T(unittest.TestCase):\n    def test_a(self): self.assertEqual(f(3), 6)\n"
        "s = unittest.defaultTestLoader.loadTestsFromTestCase(T)\ns.run(unittest.TestResult())"
    ),
    "one of two is called": f"def test_a(): assert f(2)\ndef test_b():\n    {CALLED}\ntest_a()",
    "a helper with parameters": "def test_it(x, y): assert f(x) == y\ndef test_all(): test_it(3, 6)",
    "called with the candidate": "def test(candidate):\n    assert candidate(3) == 6\ntest(f)",
    "a class of pytest": (
        "class TestF:\n    def setup_method(self): self.x = 3\n    def test_f(self): assert f(self.x) == 6"
    ),
    "a class that inherits": f"class Base:\n    def test_f(self):\n        {CALLED}\nclass TestF(Base): pass",
    "parametrized": (
        "import pytest\n@pytest.mark.parametrize('x', [0, 3])\n@pytest.mark.parametrize('y, z', [(0, 0),\n"
        "    pytest.param(5, 10, id='five')])\ndef test_f(x, y, z):\n    assert f(x) == 2 * x and f(y) == z"
    ),
    "parametrized in a class": (
        "from pytest import mark\nclass TestF:\n    @mark.parametrize(('x',), [(3,)])\n"
        "    def test_f(self, x, y=6): assert f(x) == y"
    ),
    "a failure that is told": (
        f"ok = True\ntry:\n    {CALLED}\nexcept AssertionError:\n    ok = False\nassert ok"
    ),
    "swallowed and asserted": "ok = False\ntry:\n    ok = f(3) == 6\nexcept Exception:\n    pass\nassert ok",
    "by another name": "g = f\nh = g\nfor i in (1, 3): assert h(i) == 2 * i",
    "looked up": f"def test_a():\n    {CALLED}\nfor n in [*globals()]:\n    if n == 'test_a': globals()[n]()",
    "in a method that is called": (
        f"class A:\n    def __init__(self): self.go()\n    def go(self):\n        {CALLED}\nA()"
    ),
    "in a decorated function": f"def now(g):\n    g()\n    return g\n@now\ndef check():\n    {CALLED}",
    "fail is no Exception": (
        "import pytest\nfor i in (2, 3):\n    assert f(2)\ntry:\n    if f(3) != 6: pytest.fail(reason='no')\n"
        "except Exception: f(0)"
    ),
    "raises with names": (
        "import pytest\nwith pytest.raises(TypeError) as e: f(y=3)\nassert e.type is TypeError\n"
        "e.match('argument')\npytest.raises(TypeError, f, y=3)\nassert f(3) == pytest.approx(6)"
    ),
}  # fmt: skip


# What is judged here runs outside of every jail: one will do.
in_one_jail = pytest.mark.parametrize("cell", ["process"], indirect=True)


@pytest.fixture(scope="module")
def ask(cell: Any) -> Iterator[Any]:
    """Judge a program by tests in one real jail."""

    async def start() -> Judge:
        return Judge(talks=1)

    judge = cell.wait(start())

    def asked(program: str, test: str, setup: str = "") -> Verdict:
        job = JudgeJob(program=program, tests=[test], setup=setup, limits=Limits(cpu_s=2, wall_s=10))
        verdict = cell.wait(asyncio.wait_for(judge.judge(judge.plan(job), cell.pool), 60))
        assert isinstance(verdict, Verdict)
        return verdict

    yield asked
    cell.wait(judge.aclose())


@pytest.mark.parametrize("name", IDLE)
def test_what_tests_nothing_is_refused(name: str) -> None:
    with pytest.raises(
        NotRemote, match=r"never calls|asserts nothing|swallows|always true|returns|generator"
    ):
        remote(IDLE[name], "")


@pytest.mark.parametrize(
    "test",
    [
        IDLE["a definition under a loop"], IDLE["over nothing"], IDLE["swallowed"],
        "import numpy\ndef test_f():\n    assert f(3) == 6",
    ],
)  # fmt: skip
def test_no_assurance_helps_what_tests_nothing(test: str) -> None:
    judge = Judge(talks=1)
    with pytest.raises(InvalidRequest) as caught:
        judge.plan(JudgeJob(program=DOUBLE, tests=[test]), "in_sandbox")
    assert caught.value.hint == "correct it"
    assert judge.lint(PlanJob(tests=[test])).assurance is None
    called = f"import numpy\ndef test_f():\n    {CALLED}\ntest_f()"
    assert judge.plan(JudgeJob(program=DOUBLE, tests=[called]), "in_sandbox").run.beside == (called,)


@in_one_jail
@pytest.mark.parametrize("name", LIVE)
def test_what_is_defined_is_run_and_judges(ask: Any, name: str) -> None:
    right = ask(DOUBLE, LIVE[name])
    assert [(test.outcome, test.message) for test in right.tests] == [("passed", "")]
    assert right.assurance == "rpc"
    assert ask(WRONG, LIVE[name]).outcome == "failed"


@in_one_jail
def test_what_is_skipped_tests_nothing(ask: Any) -> None:
    test = "import unittest\nclass T(unittest.TestCase):\n    @unittest.skip('x')\n    def test_a(self): f(3)"
    verdict = ask(DOUBLE, test)
    assert (verdict.outcome, "tests nothing" in verdict.tests[0].message) == ("failed", True)


@in_one_jail
def test_a_helper_of_the_setup_calls_the_program(ask: Any) -> None:
    setup, test = "def check(x): assert f(x) == 2 * x", "for i in (1, 2): check(i)"
    assert ask(DOUBLE, test, setup).passed
    assert not ask(WRONG, test, setup).passed


@pytest.mark.parametrize(
    ("test", "line", "reason"),
    [
        ("import pytest\n@pytest.fixture\ndef x(): return 3\ndef test_f(x): assert f(x)", 2, "fixture`"),
        ("import pytest as p\n@p.mark.skip\ndef test_f(): assert f(3)", 2, "pytest.mark.skip`"),
        ("from pytest import mark\n@mark.slow\ndef test_f(): assert f(3)", 2, "pytest.mark.slow`"),
        ("from pytest import importorskip\ndef test_f(): assert f(3)", 1, "pytest.importorskip`"),
        ("import pytest\n@pytest.mark.parametrize('x', [1], indirect=True)\ndef test_f(x): f(x)", 2,
         "indirect"),
        ("import pytest\n@pytest.mark.parametrize('x', [1])\nclass TestF:\n    def test_f(self, x): f(x)", 3,
         "class"),
        ("def test_f(capsys): assert f(3)", 1, "its parameter `capsys`"),
        ("import unittest\nclass T(unittest.TestCase):\n    def test_a(self, x): f(x)", 3,
         "its parameter `x`"),
        ("def setup_module(): f(1)\ndef test_f(): assert f(3)", 1, "`setup_module` is not run"),
        ("import unittest\nclass T(unittest.TestCase):\n    def test_a(self): f(3)\nunittest.main()", 4,
         "`main`"),
        ("from unittest import mock\nfor i in [1]: assert f(mock.ANY)", 1, "`mock`"),
        ("f(1)\n" + "if f(1): pass\n" + "elif f(2): pass\n" * 990, 1, "too deeply nested"),
        ("import random\nrandom.seed(1)\ndef check(c):\n    assert c(3)", 3, "end it with `check"),
    ],
)  # fmt: skip
def test_what_cannot_be_collected_is_named_with_its_line(test: str, line: int, reason: str) -> None:
    with pytest.raises(NotRemote, match=reason) as caught:
        remote(test, "")
    assert caught.value.line == line


@in_one_jail
def test_a_name_the_program_lacks_is_a_name_error(ask: Any) -> None:
    for test in (
        "for i in [1]: assert f is not None",
        "assert f is not None",
        "for i in [1]: assert callable(f)",
    ):
        verdict = ask("def g(x): return x", test)
        assert verdict.outcome in ("raised", "failed"), test
    optional = "try:\n    g = f\nexcept NameError:\n    g = double\nassert g(3) == 6"
    assert ask("def double(x): return 2 * x", optional).passed
    assert ask(DOUBLE, optional).passed


INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("expected", "more"),
    [
        (INF, {}), (-INF, {}), (1e6, {}), (1e6, {"abs": 0.01}), (1e6, {"rel": 1e-9}), (0, {}), (NAN, {}),
        (True, {}), (NAN, {"nan_ok": True}), (1e6, {"abs": 0.01, "rel": 1e-6}), (1 + 2j, {}), (None, {}),
        ("a", {}), (False, {}),
        ([1.0, INF], {}), ((1.0, 2.0), {}), ({"a": 1.0}, {}), ({"a": INF}, {}), ({}, {}),
    ],
)  # fmt: skip
def test_approx_is_as_near_as_pytests(expected: Any, more: dict[str, Any]) -> None:
    answers: list[Any] = [
        0, 1, 5.0, 1e6, 1000000.9, 1000000.009, 1e6 + 1e-4, INF, -INF, NAN, True, False, None, "a", 1 + 2j,
        1 + 2.000001j, [1.0, 5.0], [1.0, INF], (1.0, 2.0), [1.0, 2.0000001], {"a": 1.0000001}, {"a": 5.0},
        {"b": 1.0}, {"a": INF}, [], {}, 1e-13, 10**400,
    ]  # fmt: skip
    for answer in answers:
        try:
            right = bool(answer == pytest.approx(expected, **more))
        except (TypeError, OverflowError):  # where pytest cannot compare, nothing is near
            right = False
        assert bool(answer == rpc_library.Approx(expected, **more)) is right, answer


@in_one_jail
def test_approx_alone_is_no_assertion(ask: Any) -> None:
    test = "import pytest\nassert pytest.approx(f(3), 6)"
    assert ask(DOUBLE, test).outcome == "failed"
    assert (
        ask("def f(): return 5.0", "import pytest\nassert f() == pytest.approx(float('inf'))").outcome
        == "failed"
    )
