"""Reduce a generator's reply to the program in it. Never runs it, never repairs it.

What is Python as it stands stays byte for byte as it is (but for blank lines around it); so does what
is neither fenced nor chatty, however broken. Only fences, chat around the code, and the marks of chat
formats are taken away.

A reply is hostile text: every pattern reads it in linear time, with one way only to match what it matches.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple

# A mark that opens the reply is noise; the first one after that ends it, whatever follows.
_OPENING_MARKS = re.compile(r"\A(?:\s*<\|(?:im_start|im_end|begin_of_text)\|>(?:assistant\b)?)+")
_TURN_END = re.compile(
    r"<\|(?:im_end|im_start|endoftext|eot_id|eom_id|end_of_text|end|fim_pad)\|>"
    r"|<end_of_turn>|<｜end▁of▁sentence｜>|(?<!\s)\s*</s>\s*\Z"
)
_THINKING = re.compile(r"\A\s*<think>.*?(?:</think>|\Z)", re.DOTALL)
_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<mark>`{3,}|~{3,})[ \t]*(?P<language>[\w+#.-]*)[ \t]*")
_INLINE = re.compile(r"\A(`{1,3})(?:(?:python3?|py)\b)?(?P<code>[^`\n]+)\1\Z")
_CODE = re.compile(
    r"(?:async|def|class|import|from|for|while|if|with|try|return|assert|print)\b|@\w|#"
    r"|[\w.\[\], ]+(?:[^\S ]\s*)?[-+*/%]?=[^=]"
)
_DEFINES = re.compile(r"^(?:async\s+def|def|class)\s|=\s*lambda\b", re.MULTILINE)
_IMPORT = re.compile(r"\s*(?:(?:import|from)\b|#|\Z)")
_PROSE = re.compile(r"(?:[A-Z][\w'’]*|[-*>•]|\d+\.|\*\*.*|#{2,})[,:.!]?(?:\s|\Z)")
_PYTHON_TAGS = frozenset({"python", "python2", "python3", "py", "py3"})
_MAX_PARSES = 20


class _Block(NamedTuple):
    """One fenced block: its language tag in lower case, and its text without the fences."""

    language: str
    text: str


def program_of(reply: str) -> str:
    """Return the program in a generator's reply; "" when there is nothing.

    reply    decoded tokens, a few thousand at most
    returns  the program without fences, chat and marks; its own lines and indentation untouched
    """
    text = _OPENING_MARKS.sub("", _THINKING.sub("", reply))
    text = _TURN_END.split(text, maxsplit=1)[0]
    if _is_python(text):
        program = text
    elif inline := _INLINE.match(text.strip()):
        program = inline["code"].strip(" \t")
    elif "```" in text or "~~~" in text:
        program = _from_fences(text)
    else:
        program = _without_chat(text)
    return _without_blank_lines(program)


def _is_python(text: str) -> bool:
    """Whether Python can parse it. A parser's refusal of hostile depth counts as a no."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return False
    return True


def _without_blank_lines(text: str) -> str:
    """Drop the blank lines around a text; "" where there are no others."""
    if not text.strip():
        return ""
    start = text.rfind("\n", 0, len(text) - len(text.lstrip())) + 1
    end = text.find("\n", len(text.rstrip()))
    return text[start:] if end < 0 else text[start:end]


def _is_prose(line: str) -> bool:
    """Whether a line at the margin reads as a sentence or list item rather than as code."""
    if not _PROSE.match(line):
        return False
    reads_so = len(line.split()) >= 3 or line.rstrip().endswith((":", ".", "!"))
    return reads_so and not _is_python(line)


def _without_chat(text: str) -> str:
    """Drop sentences before the first line of code, and after the last if what stays is Python."""
    lines = text.split("\n")
    start = 0
    while start < len(lines) and (not lines[start].strip() or _is_prose(lines[start])):
        start += 1
    if start == len(lines) or (start and not _CODE.match(lines[start])):
        return text
    ends = (end for end in range(start + 1, len(lines)) if _is_prose(lines[end]))
    for end in islice(ends, _MAX_PARSES):
        program = "\n".join(lines[start:end])
        if _is_python(program):
            return program
    return "\n".join(lines[start:])


def _from_fences(text: str) -> str:
    """Return the program of a reply that has fences; the text itself where they hold nothing."""
    lines = text.split("\n")
    first = next((index for index, line in enumerate(lines) if _FENCE.match(line)), None)
    if first is None:
        return _without_chat(text)
    before = _without_chat("\n".join(lines[:first]))
    if _DEFINES.search(before) and _is_python(before):
        return before  # the fence after it closes nothing, or shows how to call it
    return _chosen([block for block in _blocks(lines) if block.text.strip()])


def _chosen(blocks: Sequence[_Block]) -> str:
    """Return the first block that defines something, with the imports shown before it; else the first.

    Blocks tagged as Python come before untagged ones, and those before any other language.
    """
    tagged = [block for block in blocks if block.language in _PYTHON_TAGS]
    candidates = tagged or [block for block in blocks if not block.language] or blocks
    imports: list[str] = []
    for block in candidates:
        if _DEFINES.search(block.text):
            return "\n".join([*imports, block.text])
        if all(_IMPORT.match(line) for line in block.text.split("\n")):
            imports.append(block.text)
    return candidates[0].text if candidates else ""


def _blocks(lines: Sequence[str]) -> Iterator[_Block]:
    """Yield the fenced blocks; one that is never closed (a reply cut at its length limit) runs to the end.

    A fence indented deeper than the opening one does not close it: it stands in a docstring.
    """
    index = 0
    while index < len(lines):
        fence = _FENCE.match(lines[index])
        index += 1
        if fence is None:
            continue
        indent, mark = fence["indent"], fence["mark"]
        rest = fence.string[fence.end() :].rstrip()
        if rest.endswith(mark):
            yield _Block(fence["language"].lower(), rest[: -len(mark)].rstrip())
            continue
        closing = re.compile(rf"[ \t]{{0,{len(indent)}}}{re.escape(mark[0])}{{{len(mark)},}}\s*\Z")
        end = next((at for at in range(index, len(lines)) if closing.match(lines[at])), len(lines))
        inner = [*([rest] if rest else []), *(line.removeprefix(indent) for line in lines[index:end])]
        if end == len(lines) and inner and re.fullmatch(r"[ \t]*[`~]{1,2}\s*", inner[-1]):
            inner.pop()
        yield _Block(fence["language"].lower(), "\n".join(inner))
        index = end + 1
