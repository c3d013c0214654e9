"""What every data set of the text channel is made of. Holds no loader and no model."""

from __future__ import annotations

from typing import NamedTuple


class Task(NamedTuple):
    """One programming task. The student sees `text` and `signature`; the decoder sees none of it.

    task_id      unique within its data set
    text         the description in English
    signature    the line the function must start with, e.g. "def total(numbers):"
    entry_point  the function's name
    reference    code that passes the tests, as people write it
    tests        assert statements
    setup        imports and classes the tests need; run before the program
    family       what held-out figures are grouped by, e.g. "filter+map+sum"
    """

    task_id: str
    text: str
    signature: str
    entry_point: str
    reference: str
    tests: tuple[str, ...]
    setup: str = ""
    family: str = ""
