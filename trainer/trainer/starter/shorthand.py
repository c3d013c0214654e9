"""Structured shorthand: what is left of a program when its redundant tokens are dropped.

A large generator has read enough code to guess `def`, `return` and an indentation back; the starter's
generator gets that prior from these examples. Numbers, names and operators are never lost here unless
they stand a second time. What a shorthand keeps is random, so no code is prescribed: the student finds
its own inside this space.
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple

from transformers import PreTrainedTokenizerFast

from trainer.tasks.starter import plain

_MARK = re.compile(r"⟦(\w+)\|(.*?)⟧")
_KEYWORDS = {"def", "for", "in", "if", "return", "result", "append", "True"}


class MarkedTokens(NamedTuple):
    """A program's tokens. ids [T]; groups [T]: the group a token must speak for, "" if it is redundant;
    words [T]: the token's text without spaces."""

    ids: list[int]
    groups: list[str]
    words: list[str]


def tokenize_marked(marked: str, tokenizer: PreTrainedTokenizerFast) -> MarkedTokens:
    """Tokenize marked code and say for each token which group it belongs to."""
    code = plain(marked)
    spans: list[tuple[int, int, str]] = []
    shift = 0
    for found in _MARK.finditer(marked):
        start = found.start() - shift
        spans.append((start, start + len(found[2]), found[1]))
        shift += len(found[0]) - len(found[2])
    coded = tokenizer(code, return_offsets_mapping=True, add_special_tokens=False)
    groups, words = [], []
    last_of: dict[str, int] = {}
    for start, end in coded["offset_mapping"]:
        inside = [s for s in spans if s[0] < end and start < s[1]]
        # The pieces of one marked text (two digits of a number) must all stay: each is a group of its own.
        label = ""
        if inside:
            s = inside[0]
            piece = start - s[0] if start > s[0] else 0
            label = f"{s[2]}.{piece}"
        groups.append(label)
        words.append(code[start:end].strip())
        last_of[label] = start
    return MarkedTokens(coded["input_ids"], groups, words)


def shorten(tokens: MarkedTokens, level: float, rng: random.Random) -> list[int]:
    """Drop redundant tokens.

    level    0 keeps everything, 1 keeps nothing but one member of each group; between them signs and
             line breaks go first, then keywords, then variables
    returns  the ids that are left, in order; at least one of each group
    """
    keep: set[int] = set()
    members: dict[str, list[int]] = {}
    for i, group in enumerate(tokens.groups):
        if group:
            members.setdefault(group, []).append(i)
    for group in members.values():
        keep.add(rng.choice(group))
    for i in range(len(tokens.ids)):
        if i not in keep and rng.random() >= _drop_chance(tokens.words[i], level):
            keep.add(i)
    return [tokens.ids[i] for i in sorted(keep)]


def _drop_chance(word: str, level: float) -> float:
    start = 0.0 if not word.isidentifier() else 0.15 if word in _KEYWORDS else 0.3
    return min(1.0, max(0.0, (level - start) / (1.0 - start) * 1.15))
