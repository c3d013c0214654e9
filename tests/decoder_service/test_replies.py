"""What is left of a generator's reply."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from decoder_service.replies import program_of

CODE = "def total(numbers):\n    result = 0\n    for n in numbers:\n        result += n\n    return result"


@pytest.mark.parametrize(
    "reply",
    [
        f"```python\n{CODE}\n```",
        f"```\n{CODE}\n```",
        f"```py\n{CODE}\n```\n",
        f"~~~python\n{CODE}\n~~~",
        f"````python\n{CODE}\n````",
        f"```Python3 \n{CODE}\n```   ",
        f"Here is the code:\n\n```python\n{CODE}\n```",
        f"Sure! Here's a function that does it:\n```python\n{CODE}\n```\nIt adds the numbers up.",
        f"```python\n{CODE}\n```<|im_end|>",
        f"```python\n{CODE}\n```<|im_end|>\n<|im_start|>user\nthanks",
        f"```python\n{CODE}\n```<|endoftext|>def junk(): pass",
        f"```python\n\n\n{CODE}\n\n```",
        f"```python\n{CODE}",
        f"```python\n{CODE}\n``",
        f"Here is the code:\n```python\n{CODE}\n```\n\nExample usage:\n```python\nprint(total([1, 2]))\n```",
        f"Install nothing:\n```bash\npip list\n```\nThen:\n```python\n{CODE}\n```",
        f"{CODE}\n```",
        f"{CODE}\n```\nThis function adds the numbers.",
        f"{CODE}\n\nExample usage:\n```python\nprint(total([1, 2]))\n```",
        f"Here is the code:\n{CODE}",
        f"Sure, here is the Python code:\n\n{CODE}\n\nThis function adds the numbers up, one by one.",
        f"{CODE}\n\nThis function adds the numbers up, one by one.\nNote that it needs numbers.",
        f"Code:\n{CODE}",
        f"**Solution**:\n\n{CODE}",
        f"<|im_start|>assistant\n{CODE}<|im_end|>",
        f"<think>\nThey want a sum.\n```python\nwrong\n```\n</think>\n\n```python\n{CODE}\n```",
        f"{CODE}</s>",
        f"{CODE}<|eot_id|>",
        f"\n  \n\n{CODE}\n\n  \n",
        f"1. Read the message.\n2. Write the code.\n\n```python\n{CODE}\n```",
        f"```python\n{CODE}\n```\n```python\n{CODE.replace('total', 'other')}\n```",
    ],
)
def test_a_reply_is_reduced_to_its_program(reply: str) -> None:
    assert program_of(reply) == CODE


@pytest.mark.parametrize(
    "program",
    [
        CODE,
        "    indented = 1\n        and_more = 2",
        "def f(x) return x",
        "def f(x):\n  return (x",
        "x = [1,\n\n\n     2]",
        "def f():\n\treturn 'tab'  ",
        "def f(x):\r\n    return x",
        "# a comment: it stays\nx = 1",
        'def f():\n    """\n    ```python\n    f()\n    ```\n    """\n    return "</s> `x`"',
        "f = lambda x: x\n\n\n\nprint(f(1))",
        "if x",
        "Result = 3\nResult",
        "total numbers sum",
        "s = '<|im_end|'",
        "class A:\n    pass\n\nNone",
        "return x",
    ],
)
def test_a_program_without_fences_keeps_every_byte(program: str) -> None:
    assert program_of(program) == program


@pytest.mark.parametrize(
    "reply", ["", "  \n\n ", "<|im_end|>", "```python\n```", "<think>never ended", "```"]
)
def test_a_reply_without_a_program_is_empty(reply: str) -> None:
    assert program_of(reply) == ""


def test_imports_shown_in_a_block_of_their_own_stay_with_the_function() -> None:
    reply = "First:\n```python\nimport math\n```\nThen:\n```python\ndef f(x):\n    return math.sqrt(x)\n```"
    assert program_of(reply) == "import math\ndef f(x):\n    return math.sqrt(x)"


def test_a_fence_inside_a_docstring_does_not_end_the_block() -> None:
    code = 'def f():\n    """\n    ```\n    f()\n    ```\n    """\n    return 1'
    assert program_of(f"Here:\n```python\n{code}\n```\nDone.") == code


def test_an_indented_block_loses_the_indentation_of_its_fence_only() -> None:
    assert (
        program_of("1. Code:\n   ```python\n   def f(x):\n       return x\n   ```")
        == "def f(x):\n    return x"
    )


@pytest.mark.parametrize("reply", ["`f = sum`", "```python f = sum```", "``` f = sum ```"])
def test_code_between_marks_on_one_line_is_found(reply: str) -> None:
    assert program_of(reply) == "f = sum"


def test_a_reply_of_prose_only_is_left_alone() -> None:
    reply = "I cannot decode this message. Please send more of it."
    assert program_of(reply) == reply


@pytest.mark.parametrize(
    "reply", ["(" * 3000, "-" * 50_000 + "x", "\0", "x = '\\q'", "f(" * 80 + "\n```\n", "a" + ".b" * 20_000]
)
def test_hostile_replies_neither_raise_nor_warn(reply: str) -> None:
    program_of(reply)


@contextmanager
def within(cpu_s: float) -> Iterator[None]:
    """Fail, instead of waiting for ever, what needs more of the processor."""

    def fail(*_: object) -> None:
        raise TimeoutError(f"it needed more than {cpu_s} s")

    before = signal.signal(signal.SIGVTALRM, fail)
    signal.setitimer(signal.ITIMER_VIRTUAL, cpu_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


LINES = ["# a step\n", "import math\n", "from a import b\n", "\n", "    \n", "\t \n", "# a\n\nimport b\n  \n"]


@pytest.mark.parametrize("lines", LINES)
@pytest.mark.parametrize("count", [16, 5000])
@pytest.mark.parametrize("fence", ["```python", "```"])
def test_a_long_header_in_a_fence_costs_no_time(fence: str, count: int, lines: str) -> None:
    header = lines * count
    for rest in ("x = 1", " " * 40 + "x = 1", "x ="):
        with within(0.9):
            found = program_of(f"Here:\n{fence}\n{header}{rest}\n```")
        assert found == (header + rest if header.strip() else rest)
    with within(0.9):
        found = program_of(f"{fence}\n{header}\n```\n{fence}\ndef f(x): ...\n```")
    assert found.strip() == f"{header}\ndef f(x): ...".strip()


@pytest.mark.parametrize("run", [" ", "\t", "\n", " \n", "\r\n", " \t", "\f", "`", "</s> ", "A b c.\n"])
@pytest.mark.parametrize("before", ["x ", "x = 1\n", "`", "``` x", "Code:\nx", "</s>", ""])
def test_a_long_run_of_the_same_costs_no_time(before: str, run: str) -> None:
    with within(0.9):
        program_of(before + run * (40_000 // len(run)) + "y !")
    with within(0.9):
        program_of(before + run * (40_000 // len(run)))
