"""Messages that must fail, and messages with one thing changed. Pure: token ids in, texts out.

What a change breaks says what carried meaning; what a change leaves whole was not needed. Of a tokenizer
only `ids` and `text` are used.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from trainer.measure.record import Message, Sender
from trainer.tasks.task import Task

PERMUTATIONS = 2
SHARES = tuple(i / 10 for i in range(1, 10))


class Cutter(Protocol):
    """What is asked of a tokenizer."""

    def ids(self, text: str) -> list[int]:
        """Return a text's token ids, special tokens left out."""

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, as the student's messages are written."""


class Change(NamedTuple):
    """A message with one thing changed.

    task    place of its task
    kind    deletion, substitution, swap (of a token with the next) or permutation (of all)
    place   which token, from 0; of a swap the first; -1 for a permutation
    symbol  the token that is gone or moved; -1 for a permutation
    """

    task: int
    kind: str
    place: int
    symbol: int
    text: str


def changes(messages: Sequence[Sequence[int]], cutter: Cutter, *, seed: int = 0) -> list[Change]:
    """Return every deletion, one substitution of each token, every swap of neighbours, a few permutations.

    messages  [N] token ids; a substitute is drawn from all messages' tokens as often as it stands there
    returns   changes, those that change nothing (a swap of equal tokens) left out
    """
    chance = random.Random(seed)
    pool = [token for message in messages for token in message]
    found = []
    for task, message in enumerate(messages):
        ids = list(message)

        def add(kind: str, place: int, symbol: int, new: list[int], task: int = task) -> None:
            found.append(Change(task, kind, place, symbol, cutter.text(new)))

        for place, token in enumerate(ids):
            add("deletion", place, token, ids[:place] + ids[place + 1 :])
            other = [t for t in chance.choices(pool, k=16) if t != token]
            if other:
                add("substitution", place, token, ids[:place] + other[:1] + ids[place + 1 :])
            if place + 1 < len(ids) and ids[place + 1] != token:
                add("swap", place, token, [*ids[:place], ids[place + 1], token, *ids[place + 2 :]])
        for _ in range(PERMUTATIONS if len(set(ids)) > 1 else 0):
            mixed = ids
            while mixed == ids:
                mixed = chance.sample(ids, len(ids))
            add("permutation", -1, -1, mixed)
    return found


def beginning(message: Sequence[int], share: float) -> list[int]:
    """Return a message's first tokens: that share of them, rounded, halves up."""
    return list(message[: int(len(message) * share + 0.5)])


def without(message: Sequence[int], part: Sequence[int]) -> list[int]:
    """Return a message without every occurrence of a run of tokens."""
    found, place, size = [], 0, len(part)
    while place < len(message):
        if size and list(message[place : place + size]) == list(part):
            place += size
        else:
            found.append(message[place])
            place += 1
    return found


def foreign(messages: Sequence[Message], n: int) -> Sender:
    """Return messages to tasks that are not measured here, dealt to those that are.

    messages  at least one; dealt again from the first where there are fewer than n
    """
    return Sender("foreign message", "control", [messages[i % len(messages)] for i in range(n)])


def noise(messages: Sequence[Sequence[int]], cutter: Cutter, *, seed: int = 0) -> Sender:
    """Return random tokens: as many as each message has, drawn as often as they stand in all of them."""
    chance = random.Random(seed)
    pool = [token for message in messages for token in message]
    texts = [cutter.text(chance.choices(pool, k=len(m)) if m else []) for m in messages]
    sent = [Message(text, len(m)) for text, m in zip(texts, messages, strict=True)]
    return Sender("random tokens", "control", sent)


def name_only(tasks: Sequence[Task], cutter: Cutter) -> Sender:
    """Return the function's name as the whole message: what it alone tells the decoder of the task."""
    sent = [Message(task.entry_point, len(cutter.ids(task.entry_point))) for task in tasks]
    return Sender("function name only", "control", sent)


def unnamed(tasks: Sequence[Task], messages: Sequence[Sequence[int]], cutter: Cutter) -> list[str]:
    """Return the messages without the function's name, wherever it stands and whatever stands before it."""
    texts = []
    for task, message in zip(tasks, messages, strict=True):
        left = list(message)
        for spelled in (f" {task.entry_point}", task.entry_point):
            left = without(left, cutter.ids(spelled))
        texts.append(cutter.text(left))
    return texts
