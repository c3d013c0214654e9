"""Values and objects that a test in the judge and its program share: one is one, and two are two."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from sandbox_service.inside.mirrors import Mirrors
from sandbox_service.judge import Judge
from shared.wire import JudgeJob, Limits, Verdict

CLONE = "x = [1, [2]]\ny = clone(x)\nassert y == x and y is not x"
ADDED = "x = [1, 2]\ny = clone(x)\ny.append(3)\nassert x == [1, 2]"
TOP = "xs = [3, 1]\nassert top(xs=xs) == 3\nassert xs == [3, 1]"
GRID = "a = grid(2)\na[0][0] = 5\nassert a == [[5, 0], [0, 0]]"
KEPT = "b = Box()\nx = [1]\nb.put(x)\nx.append(2)\nassert b.got == [[1, 2]]"
ONE = "assert S() is S() and S().x is S().x"
EQUAL = "for _ in [1]: assert len({P(1), P(1)}) == 1 and {P(1): 2}[P(1)] == 2"
BOX = "class Box:\n    def __init__(self): self.got = []\n    def put(self, x): self.got.append({what})"
POINT = (
    "class P:\n    def __init__(self, x): self.x = x\n    def __eq__(self, o): return {equal}\n"
    "    def __hash__(self): return self.x"
)
NODES = (
    "class N:\n    def __init__(self, n): self.n = n\ndef ring():\n"
    "    a = N(None)\n    a.n = N(a)\n    return a"
)

# (the test, a program that is right, one that is wrong)
TESTS = [
    (CLONE, "def clone(x): return [*x]", "def clone(x): return x"),
    (ADDED, "def clone(x): return [*x]", "def clone(x): return x"),
    (TOP, "def top(xs): return max(xs)", "def top(xs): xs.sort(); return xs[-1]"),
    ("xs = [3, 1]\ntop(xs=xs)\nassert xs == [1, 3]", "def top(xs): xs.sort()", "def top(xs): sorted(xs)"),
    ("x = [2, 1]\nassert f(x) is x", "def f(x): return x", "def f(x): return [*x]"),
    ("x = {2: {1}}\nassert f(x) is x[2]", "def f(x): return x[2]", "def f(x): return {*x[2]}"),
    ("p = ([1],)\nf(p)\nassert p[0] == [1, 9]", "def f(p): p[0].append(9)", "def f(p): return 9"),
    ("b = Box()\nb.got.append(1)\nassert b.got == [1]", BOX.format(what="x"),
     "class Box:\n    got = property(lambda self: [])"),
    (GRID, "def grid(n): return [[0] * n for _ in range(n)]", "def grid(n): return [[0] * n] * n"),
    (KEPT, BOX.format(what="x"), BOX.format(what="[*x]")),
    ("a, b = f(1), f(1)\nassert a is not b", "def f(x): return [x]", "G = [1]\ndef f(x): return G"),
    ("a = f(1)\na.append(2)\nassert f(1) == [1]", "def f(x): return [x]", "G = [1]\ndef f(x): return G"),
    ("def g(x): x.append(2)\nassert f(g) == [1, 2]", "def f(g): x = [1]; g(x); return x",
     "def f(g): g([1]); return [1]"),
    ("k = [1]\ndef g(): return k\nassert f(g) is k", "def f(g): return g()", "def f(g): return [*g()]"),
    ("x = loop()\nassert x[0] is x", "def loop(): x = []; x.append(x); return x", "def loop(): return [[]]"),
    ("d = f()\nassert [*d] == ['b', 'a']\nd['c'] = 1\nd.move_to_end('b')\nassert g(d) == ['a', 'c', 'b']",
     "from collections import OrderedDict\ndef f(): return OrderedDict(b=1, a=2)\ndef g(d): return [*d]",
     "from collections import OrderedDict\ndef f(): return OrderedDict(b=1, a=2)\ndef g(d): return [*f()]"),
    ("x = [1]\ntry: f(x)\nexcept ValueError: assert x == []\nelse: assert 0",
     "def f(x): x.clear(); raise ValueError", "def f(x): raise ValueError"),
    (ONE, "class S:\n    one = None\n    def __new__(cls):\n        S.one = S.one or object.__new__(cls)\n"
     "        return S.one\n    x = object()", "class S: x = object()"),
    (EQUAL, POINT.format(equal="self.x == o.x"), POINT.format(equal="False")),
    ("n, seen = ring(), set()\nwhile n not in seen:\n    seen.add(n)\n    n = n.n\nassert len(seen) == 2",
     NODES, NODES.replace("N(a)", "N(N(a))")),
]  # fmt: skip
# An object that equals all, and has the hash of what is expected, is still nothing that is expected.
LIAR = (
    "class L:\n    def __eq__(s, o): return True\n    def __hash__(s): return hash(4)\n"
    "    def __bool__(s): return True\ndef f(x): return L()"
)


@pytest.fixture(scope="module")
def ask(cell: Any) -> Iterator[Any]:
    """Judge a program by a test."""

    async def start() -> Judge:
        return Judge(talks=1)

    judge = cell.wait(start())

    def asked(program: str, test: str) -> Verdict:
        plan = judge.plan(JudgeJob(program=program, tests=[test], limits=Limits(cpu_s=2, wall_s=10)))
        verdict = cell.wait(asyncio.wait_for(judge.judge(plan, cell.pool), 60))
        assert isinstance(verdict, Verdict)
        return verdict

    yield asked
    cell.wait(judge.aclose())


# What is judged here runs outside of every jail: one will do.
in_one_jail = pytest.mark.parametrize("cell", ["process"], indirect=True)


@in_one_jail
@pytest.mark.parametrize(("test", "right", "wrong"), TESTS)
def test_right_passes_and_wrong_does_not(ask: Any, test: str, right: str, wrong: str) -> None:
    assert [(one.outcome, one.message) for one in ask(right, test).tests] == [("passed", "")]
    assert ask(wrong, test).outcome in ("failed", "raised")


@in_one_jail
@pytest.mark.parametrize("test", ["f(1) in {4, 5}", "{f(1)} == {4}", "{f(1): 1} == {4: 1}", "{4: 1}[f(1)]"])
def test_a_hash_forges_nothing(ask: Any, test: str) -> None:
    assert ask(LIAR, f"for _ in [1]: assert {test}").outcome in ("failed", "raised")


@in_one_jail
def test_a_program_changes_no_value_that_it_was_not_given(ask: Any) -> None:
    """It says of every number that there is what would pass."""
    program = (
        "import sys\nfrom sandbox_service.inside import serve\n"
        "def changes(self, length):\n"
        "    one = serve.codec.encode([4])\n"
        "    return b''.join(serve._part(serve.CHANGED, b'[\"m\",\"%s\",%s]' % (hex(n).encode(), one))\n"
        "                    for n in (-3, -2, -1) if n in self.mirrors.held or len(sys.argv) > 9)\n"
        "serve.Server.changes = changes\ndef f(x): return [3]"
    )
    test = "wanted = [4]\nfor _ in [1]:\n    x = [1]\n    assert f(x) == wanted"
    assert ask(program, test).outcome == "failed"
    verdict = ask(program.replace(" if n in self.mirrors.held or len(sys.argv) > 9", ""), test)
    assert verdict.outcome == "failed" and "in the test's name" in verdict.tests[0].message


@in_one_jail
def test_a_change_too_large_to_be_carried_is_no_pass_and_no_failure_of_the_tests_own(ask: Any) -> None:
    test = "x = []\ntry: f(x)\nexcept BaseException: pass\nassert x == []"
    verdict = ask("def f(x): x += [0] * 200_000", test)
    assert verdict.outcome == "failed"
    assert "too large" in verdict.tests[0].message


def test_what_one_side_alone_holds_is_shared_no_more() -> None:
    mirrors = Mirrors(1)
    outer: Any = [[]]
    held = outer[0]
    for number in [mirrors.new(outer), mirrors.new(held), mirrors.new([])]:
        mirrors.told(number)
    assert mirrors.unheld() == [3]
    del held
    assert (mirrors.unheld(), mirrors.changed()) == ([], [])
    outer.append(1)
    assert mirrors.changed() == [1]
    del outer
    assert sorted(mirrors.unheld()) == [1, 2]
    assert (mirrors.held, mirrors.changed()) == ({}, [])
