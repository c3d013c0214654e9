"""The sequence DSL: 21 operations and 3 predicates over lists of whole numbers. Standard library only.

One module for the generator, the code length and the jail, where its source is run in front of a program:
so it is short, and does nothing when it is loaded. A program is flat, one assignment a line, and ends in
`output = ...`:

    sequence_1 = repeat_num(5, 248)
    sequence_2 = range_func_up(10, 20)
    output = interleave(sequence_1, sequence_2)

No operation changes its arguments. `filter` takes the predicate first and hides Python's own.
"""

from __future__ import annotations

TYPE_CHECKING = False  # importing it from `typing` is what takes time in a jail
if TYPE_CHECKING:
    from collections.abc import Callable

# --- from numbers ---


def range_func_up(start: int, end: int) -> list[int]:
    """Return start..end, the end included."""
    return list(range(start, end + 1))


def range_func_interval(start: int, end: int, interval: int) -> list[int]:
    """Return start, start + interval, .., the end excluded."""
    return list(range(start, end, interval))


def repeat_num(num: int, val: int) -> list[int]:
    """Return `val`, num times."""
    return [val] * num


def set_list(lst: list[int]) -> list[int]:
    """Return the list itself, copied."""
    return list(lst)


# --- from one list ---


def repeat_list(num: int, lst: list[int]) -> list[int]:
    """Return the whole list, num times over."""
    return lst * num


def reverse_list(lst: list[int]) -> list[int]:
    """Return the list backwards."""
    return lst[::-1]


def substitute(x: list[int], pattern: int, replacement: int) -> list[int]:
    """Return the list with every element equal to `pattern` replaced."""
    return [replacement if item == pattern else item for item in x]


def get_subsequence_with_jumps(seq: list[int], jump: int) -> list[int]:
    """Return every jump-th element, the first one included."""
    return seq[::jump]


def get_subsequence_between_indices(seq: list[int], start: int, end: int) -> list[int]:
    """Return seq[start:end]."""
    return seq[start:end]


def max_n(lst: list[int], n: int) -> list[int]:
    """Return the n largest, falling."""
    return sorted(lst, reverse=True)[:n]


def min_n(lst: list[int], n: int) -> list[int]:
    """Return the n smallest, rising."""
    return sorted(lst)[:n]


def add_item_list(lst: list[int], constant: int) -> list[int]:
    """Return each element plus the constant."""
    return [item + constant for item in lst]


def subtract_item_list(lst: list[int], constant: int) -> list[int]:
    """Return each element minus the constant."""
    return [item - constant for item in lst]


def modulo_item_list(lst: list[int], constant: int) -> list[int]:
    """Return each element modulo the constant."""
    return [item % constant for item in lst]


def filter(pred: Callable[[int], bool], x: list[int]) -> list[int]:
    """Return the elements for which the predicate holds."""
    return [item for item in x if pred(item)]


def scan_add(elems: list[int], initializer: int = 0) -> list[int]:
    """Return the running sums, as many as there are elements."""
    sums = []
    for item in elems:
        initializer = initializer + item
        sums.append(initializer)
    return sums


# --- from two lists, or more ---


def add_two_lists(x: list[int], y: list[int]) -> list[int]:
    """Return the sums by position, as far as the shorter list goes."""
    return [a + b for a, b in zip(x, y, strict=False)]


def subtract_two_lists(x: list[int], y: list[int]) -> list[int]:
    """Return the differences by position, as far as the shorter list goes."""
    return [a - b for a, b in zip(x, y, strict=False)]


def modulo_two_lists(x: list[int], y: list[int]) -> list[int]:
    """Return x % y by position, as far as the shorter list goes; pairs whose y is 0 are left out."""
    return [a % b for a, b in zip(x, y, strict=False) if b != 0]


def concatenate(*lists: list[int]) -> list[int]:
    """Return the lists one after the other."""
    return [item for part in lists for item in part]


def interleave(x: list[int], y: list[int]) -> list[int]:
    """Return x0, y0, x1, y1, .., then what the longer list has left."""
    n = min(len(x), len(y))
    return [item for pair in zip(x, y, strict=False) for item in pair] + x[n:] + y[n:]


# --- predicates ---


def is_even(item: int) -> bool:
    """Whether a number is even."""
    return item % 2 == 0


def is_odd(item: int) -> bool:
    """Whether a number is odd."""
    return item % 2 == 1


def is_not_zero(item: int) -> bool:
    """Whether a number is not 0."""
    return item != 0
