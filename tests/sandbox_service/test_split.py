"""Tests taken apart: what goes to the jail, what stays with the judge, what is refused and why."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from sandbox_service.split import Refusal, Split, split


@pytest.mark.parametrize(
    ("test", "calls", "remainder"),
    [
        ("assert f(3) == 4", ["f(3)"], "assert H[0] == 4"),
        ("assert 4 == f(3), 'message ' + g(1)", ["f(3)"], "assert 4 == H[0]"),
        ("f(3)", ["f(3)"], "H[0]"),
        ("assert not f(g(3))", ["f(g(3))"], "assert not H[0]"),
        ("assert f(3) is None", ["f(3)"], "assert H[0] is None"),
        ("assert 1 < f(3) <= f(4)", ["f(3)", "f(4)"], "assert 1 < H[0] <= H[1]"),
        ("assert set(f(3)) == set([1])", ["f(3)"], "assert set(H[0]) == set([1])"),
        ("assert max(f(3), key=lambda x: -x) == 1", ["f(3)"], "assert max(H[0], key=lambda x: -x) == 1"),
        ("assert math.isclose(f(3), 2.0)", ["f(3)"], "assert math.isclose(H[0], 2.0)"),
        ("assert abs(f(3) - 2) < 1e-6", ["f(3)"], "assert abs(H[0] - 2) < 1e-06"),
        ("assert f(3) == sys.getsizeof(5)", ["f(3)"], "assert H[0] == sys.getsizeof(5)"),
        ("assert f(3).lower().count('a') == 1", ["f(3)"], "assert H[0].lower().count('a') == 1"),
        ("assert f(3)[0] == f(4)[1]", ["f(3)", "f(4)"], "assert H[0][0] == H[1][1]"),
        ("assert f(3).area() == 1", ["f(3).area()"], "assert H[0] == 1"),
        ("assert f(3)(4) == 1", ["f(3)(4)"], "assert H[0] == 1"),
        ("assert Stack(3).pop() == 1", ["Stack(3).pop()"], "assert H[0] == 1"),
        ("assert stack.pop() == 1", ["stack.pop()"], "assert H[0] == 1"),
        ("assert Point(1, 2).x == 1", ["Point(1, 2).x"], "assert H[0] == 1"),
        ("assert f(lambda x: x + 1, [i for i in range(3)]) == 1",
         ["f(lambda x: x + 1, [i for i in range(3)])"], "assert H[0] == 1"),
        ("assert all(i == 1 for i in f(3))", ["f(3)"], "assert all((i == 1 for i in H[0]))"),
        ("assert f(3) == 4 or g(3) == 5", ["f(3)", "g(3)"], "assert H[0] == 4 or H[1] == 5"),
        ("assert (f)(3) == 4", ["(f)(3)"], "assert H[0] == 4"),
        ("assert (f (3,\n    4)) == 1", ["f (3,\n    4)"], "assert H[0] == 1"),
        ("import math as m\nassert m.floor(f(3)) == 4", ["f(3)"], "assert math.floor(H[0]) == 4"),
        ("from math import isclose as i\nassert i(f(3), 2.0)", ["f(3)"], "assert math.isclose(H[0], 2.0)"),
        ("x = f(3)\nassert x == 4 and x < 5", ["f(3)"], "x = H[0]\nassert x == 4 and x < 5"),
        ("x = [3, 1]\nassert f(x) == 4", ["f([3, 1])"], "x = [3, 1]\nassert H[0] == 4"),
        ("a = 1\nb = (a, 2)\nassert f(b, a) == 4", ["f((1, 2), 1)"], "a = 1\nb = (a, 2)\nassert H[0] == 4"),
        ("import math as m\nx = m.pi\nassert f(x, m.e) == 4",
         ["f(__import__('math').pi, __import__('math').e)"], "x = math.pi\nassert H[0] == 4"),
        ("assert f(3) is not None and type(f(3)) is list", ["f(3)", "f(3)"],
         "assert H[0] is not None and type(H[1]) is list"),
        ("a = f(3)\na.sort()\nassert a == [1]", ["f(3)"], "a = H[0]\na.sort()\nassert a == [1]"),
        ("assert A().add(1) == stack.pop()", ["A().add(1)", "stack.pop()"], "assert H[0] == H[1]"),
        ("assert True", [], "assert True"),
        ("assert f'{f(3)!r:>4}' == '   4'", ["f(3)"], "assert f'{H[0]!r:>4}' == '   4'"),
        ("assert f(\"é\", 'ü') == 'ö'", ["f(\"é\", 'ü')"], "assert H[0] == 'ö'"),
    ],
)  # fmt: skip
def test_a_test_splits_into_calls_and_a_remainder(test: str, calls: list[str], remainder: str) -> None:
    assert split([test]) == (Split(test, tuple(calls), remainder),)


@pytest.mark.parametrize(
    ("test", "line", "reason"),
    [
        ("assert f(", 1, "not Python"),
        ("assert all(f(i) == i for i in range(3))", 1, "lambda or comprehension"),
        ("assert [f(3) for _ in range(2)] == [1, 1]", 1, "lambda or comprehension"),
        ("assert (lambda: f(3))() == 4", 1, "lambda or comprehension"),
        ("x = 1\nfor i in range(3):\n    assert f(i) == 1", 2, "For"),
        ("try:\n    f(3)\nexcept ValueError:\n    pass", 1, "Try"),
        ("def check(candidate):\n    assert candidate(3) == 4\n\ncheck(f)", 1, "FunctionDef"),
        ("with pytest.raises(ValueError):\n    f(3)", 1, "With"),
        ("x = [3]\nf(x)\nassert x == [1]", 2, "can be changed"),
        ("x = f(3)\nassert g(x) == 1", 2, "passed back"),
        ("x = 3\nassert f(lambda x: x, x) == 1", 2, "binds `x`"),
        ("s = Stack()\ns.push(3)\nassert s.pop() == 3", 1, "object of the program"),
        ("s = f(3)\nassert s.area() == 3", 2, "attribute"),
        ("assert f(3) == EXPECTED", 1, "neither known"),
        ("assert list(map(f, [1])) == [2]", 1, "neither known"),
        ("assert np.allclose(f(3), 4)", 1, "not available"),
        ("assert f(3) == pytest.approx(4)", 1, "not available"),
        ("import numpy as np\nassert np.allclose(f(3), 4)", 1, "not available"),
        ("assert obj.compare(f(3), 4)", 1, "would be given"),
        ("assert getattr(f(3), 'x') == 1", 1, "not a builtin"),
        ("assert eval('1') == f(3)", 1, "not a builtin"),
        ("assert open('x').read() == f(3)", 1, "not a builtin"),
        ("assert __import__('os') == f(3)", 1, "neither known|not a builtin|calls only"),
        ("assert [].__class__ == f(3)", 1, "is not read"),
        ("assert (i for i in f(3)).gi_frame", 1, "is not read"),
        ("assert math.__loader__ == f(3)", 1, "not available"),
        ("assert statistics.sys == f(3)", 1, "not available"),
        ("assert string.Formatter() == f(3)", 1, "not available"),
        ("assert (x := f(3)) == 4", 1, "assignment expression"),
        ("assert f(y := 3) == y", 1, "binds"),
        ("assert (f(3) == 4, 'message')", 1, "always true"),
        ("pass", 1, "asserts nothing"),
        ("", 1, "asserts nothing"),
        ("H = f(3)\nassert H == 4", 1, "the judge's"),
        ("assert [H for H in f(3)] == 4", 1, "the judge's"),
        ("decimal.setcontext(decimal.Context(prec=3))\nassert f(3) == 4", 1, "not available"),
        ("decimal.getcontext().traps.clear()\nassert f(3) == 4", 1, "not available"),
        ("decimal.DefaultContext.clear_traps()\nassert f(3) == 4", 1, "not available"),
        ("from decimal import setcontext\nassert f(3) == 4", 1, "not available"),
        ("functools.update_wrapper(math.fsum, len)\nassert f(3) == 4", 1, "not available"),
        ("functools.total_ordering(fractions.Fraction)\nassert f(3) == 4", 1, "not available"),
        ("fractions.Fraction.register(int)\nassert f(3) == 4", 1, "is not read"),
        ("a = f(1)\nb = f(1)\nassert a is not b", 3, "only copies"),
        ("x = (1, 2)\nassert f(x) is not x", 2, "only copies"),
        ("assert f(1) is f(1)", 1, "only copies"),
        ("a = f(1)\na.append(2)\nassert f(1) == [1]", 2, "is changed"),
        ("from heapq import heappush\na = f(1)\nheappush(a, 2)\nassert f(1) == [1]", 3, "is changed"),
        ("assert math == f(3)", 1, "neither known"),
        ("x = 1; x += f(3)\nassert x == 4", 1, "AugAssign"),
        ("global f\nassert f(3)", 1, "Global"),
        ("assert f(" + "(" * 500 + ")" * 500 + ")", 1, "not Python|nested"),
        ("assert " + "-" * 100_000 + "f(3)", 1, "not Python|nested"),
        ("assert f(3) == 0" + "+1" * 50_000, 1, "not Python|nested"),
    ],
)  # fmt: skip
def test_what_cannot_be_taken_apart_is_refused_with_line_and_reason(
    test: str, line: int, reason: str
) -> None:
    (refusal,) = split([test])
    assert isinstance(refusal, Refusal), refusal
    assert refusal.line == line
    assert any(part in refusal.reason for part in reason.split("|")), refusal.reason


def test_a_builtin_is_the_candidates_where_the_tests_call_nothing_else() -> None:
    first, second = split(["assert sum(10, 15) == 6", "assert sum(1, 3) == int('4')"])
    assert isinstance(first, Split)
    assert first.calls == ("globals()['sum'](10, 15)",)
    assert isinstance(second, Split)
    assert second.remainder == "assert H[0] == int('4')"


def test_a_builtin_stays_the_judges_where_the_tests_call_the_candidate() -> None:
    for one in split(["assert sum(f(3)) == 6", "assert len(f(1)) == 1", "assert sum([1]) == 1"]):
        assert isinstance(one, Split)
        assert "globals" not in "".join(one.calls)


def test_a_helper_of_the_setup_is_refused_where_the_candidate_could_replace_it() -> None:
    setup = "def same(a, b):\n    return a == b\n\nclass Node:\n    pass\n\nroot = Node()"
    helper, argument = split(["assert same(f(3), 4)", "assert f(root) == 4"], setup)
    assert isinstance(helper, Refusal)
    assert "setup" in helper.reason
    assert isinstance(argument, Split)
    assert argument.calls == ("f(root)",)


def test_the_setup_cannot_shadow_a_builtin_of_the_judge_unseen() -> None:
    (refusal,) = split(["assert sorted(f(3)) == [1]"], "def sorted(x):\n    return [1]")
    assert isinstance(refusal, Refusal)


def test_imports_and_constants_of_the_setup_are_the_judges() -> None:
    setup = "import math as m\nfrom math import isclose\nE = 1e-3\n"
    tests = [
        "assert m.floor(f(3)) == 2",
        "assert isclose(f(3), 2)",
        "assert abs(f(3)) < E",
        "assert f(E) == 1",
    ]
    calls = [one.calls if isinstance(one, Split) else one for one in split(tests, setup)]
    assert calls == [("f(3)",), ("f(3)",), ("f(3)",), ("f(E)",)]


def test_a_setup_that_is_not_python_refuses_every_test() -> None:
    for one in split(["assert f(3) == 4", "f(1)"], "def ("):
        assert isinstance(one, Refusal)
        assert one.reason.startswith("the setup: not Python")


def test_every_mbpp_test_splits_at_value(data: Path) -> None:
    rows = [json.loads(line) for line in (data / "mbpp" / "mbpp.jsonl").read_text().splitlines()]
    assert len(rows) == 974
    calls: Counter[int] = Counter()
    for row in rows:
        for one in split(row["test_list"] + row["challenge_test_list"], row["test_setup_code"]):
            assert isinstance(one, Split), (row["task_id"], one)
            calls[len(one.calls)] += 1
    assert calls == {1: 2938}


def test_every_sanitized_mbpp_test_splits_at_value(data: Path) -> None:
    rows = json.loads((data / "mbpp" / "sanitized-mbpp.json").read_text())
    assert len(rows) == 427
    for row in rows:
        for one in split(row["test_list"], "\n".join(row["test_imports"])):
            assert isinstance(one, Split), (row["task_id"], one)
            assert len(one.calls) == 1
