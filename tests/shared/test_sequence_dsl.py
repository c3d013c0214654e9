"""The sequence DSL against values worked by hand, and against plain Python on random lists."""

from __future__ import annotations

import ast
import inspect
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import sequence_dsl as dsl

numbers = st.lists(st.integers(-300, 600), max_size=40)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("range_func_up(3, 6)", [3, 4, 5, 6]),
        ("range_func_up(6, 3)", []),
        ("range_func_interval(3, 9, 3)", [3, 6]),
        ("range_func_interval(3, 10, 3)", [3, 6, 9]),
        ("repeat_num(3, 7)", [7, 7, 7]),
        ("set_list([1, 2])", [1, 2]),
        ("repeat_list(2, [1, 2])", [1, 2, 1, 2]),
        ("reverse_list([1, 2, 3])", [3, 2, 1]),
        ("substitute([1, 2, 1], 1, 9)", [9, 2, 9]),
        ("get_subsequence_with_jumps([1, 2, 3, 4, 5], 2)", [1, 3, 5]),
        ("get_subsequence_between_indices([1, 2, 3, 4], 1, 3)", [2, 3]),
        ("max_n([3, 9, 4, 9], 3)", [9, 9, 4]),
        ("min_n([3, 9, 4, 9], 2)", [3, 4]),
        ("add_item_list([1, 2], 10)", [11, 12]),
        ("subtract_item_list([1, 2], 10)", [-9, -8]),
        ("modulo_item_list([7, 8, 9], 4)", [3, 0, 1]),
        ("filter(is_even, [1, 2, 3, 4])", [2, 4]),
        ("filter(is_odd, [1, 2, 3, 4])", [1, 3]),
        ("filter(is_not_zero, [1, 0, 3])", [1, 3]),
        ("scan_add([1, 2, 3])", [1, 3, 6]),
        ("scan_add([1, 2, 3], 10)", [11, 13, 16]),
        ("add_two_lists([1, 2, 3], [10, 20])", [11, 22]),
        ("subtract_two_lists([10, 20], [1, 2, 3])", [9, 18]),
        ("modulo_two_lists([10, 20, 30], [3, 0, 7])", [1, 2]),
        ("concatenate([1], [2, 3], [4])", [1, 2, 3, 4]),
        ("concatenate()", []),
        ("interleave([1, 2, 3, 4], [8, 9])", [1, 8, 2, 9, 3, 4]),
        ("interleave([1], [7, 8, 9])", [1, 7, 8, 9]),
    ],
)
def test_an_operation_gives_what_is_worked_by_hand(expression: str, value: list[int]) -> None:
    assert eval(expression, dict(vars(dsl))) == value


@given(numbers, numbers)
def test_no_operation_changes_its_arguments(x: list[int], y: list[int]) -> None:
    for name, call in _calls(x, y).items():
        before = (list(x), list(y))
        result = call()
        assert (x, y) == before, name
        assert type(result) is list and result is not x and result is not y, name


@given(numbers, numbers)
def test_interleaving_takes_nothing_away_and_keeps_both_orders(x: list[int], y: list[int]) -> None:
    mixed = dsl.interleave(x, y)
    n = min(len(x), len(y))
    assert mixed[: 2 * n : 2] == x[:n] and mixed[1 : 2 * n : 2] == y[:n]
    assert mixed[2 * n :] == (x[n:] or y[n:])


def test_the_preamble_names_21_operations_and_3_predicates_and_imports_nothing() -> None:
    source = inspect.getsource(dsl)
    tree = ast.parse(source)
    names = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    assert len(names) == 24 and [name for name in names if name.startswith("is_")] == [
        "is_even",
        "is_odd",
        "is_not_zero",
    ]
    imported = [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert imported == ["__future__"] and not [node for node in tree.body if isinstance(node, ast.Import)]


def test_the_preamble_loads_in_a_few_milliseconds() -> None:
    source, fastest = inspect.getsource(dsl), 1.0
    for _ in range(20):
        start = time.perf_counter()
        exec(compile(source, "<setup>", "exec"), {})
        fastest = min(fastest, time.perf_counter() - start)
    assert fastest < 0.01


def _calls(x: list[int], y: list[int]) -> dict[str, Any]:
    return {
        "set_list": lambda: dsl.set_list(x),
        "repeat_list": lambda: dsl.repeat_list(2, x),
        "reverse_list": lambda: dsl.reverse_list(x),
        "substitute": lambda: dsl.substitute(x, 1, 2),
        "jumps": lambda: dsl.get_subsequence_with_jumps(x, 1),
        "slice": lambda: dsl.get_subsequence_between_indices(x, 0, 99),
        "max_n": lambda: dsl.max_n(x, 99),
        "min_n": lambda: dsl.min_n(x, 99),
        "filter": lambda: dsl.filter(dsl.is_even, x),
        "scan_add": lambda: dsl.scan_add(x),
        "concatenate": lambda: dsl.concatenate(x),
        "interleave": lambda: dsl.interleave(x, y),
        "add": lambda: dsl.add_two_lists(x, y),
        "modulo": lambda: dsl.modulo_two_lists(x, y),
    }
