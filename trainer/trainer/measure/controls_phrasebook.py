"""The phrasebook of a trained student: made from messages to training tasks, checked on held-out ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shared.clients import run
from trainer.channels.text.exchange import Exchange
from trainer.config_text import TextConfig
from trainer.measure.causal import CHUNK
from trainer.measure.controls import Subject
from trainer.measure.controls_messages import without
from trainer.measure.phrasebook import Checked, Removal, align, check, phrasebook, verdict
from trainer.measure.phrasebook_pieces import joined, pieces_of
from trainer.measure.record import Message, Record
from trainer.measure.statistics import mean
from trainer.pace import Pace
from trainer.tasks.task import Task

SHUFFLES = 3


def make(
    subject: Subject, learned_from: Sequence[Task], said: Sequence[Message], records: Sequence[Record],
    *, wanted: int = 20, at: float = 0.8,
) -> dict[str, Any]:  # fmt: skip
    """Make the phrasebook and check it.

    learned_from, said  [M] tasks and the student's messages to them: what the book is made from
    records             [N] the subject's messages on the held-out tasks: what it is checked on
    wanted, at          how many symbols must break their piece how often
    returns             {"verdict", "entries", ...}, ready for JSON
    """
    programs = [pieces_of(task.reference) or frozenset() for task in learned_from]
    classes = joined(programs)
    found = [[name for name, members in classes.items() if members <= pieces] for pieces in programs]
    messages = [subject.words.ids(message.text) for message in said]
    book = phrasebook(messages, found)
    checked = check(book, run(removals(subject, records)), classes)
    result = verdict(checked, wanted=wanted, at=at)
    shown = [_shown(one, subject, learned_from, said) for one in result.checked]
    moved = [align(messages[k:] + messages[:k], found).information for k in range(1, SHUFFLES + 1)]
    return {
        "verdict": result.said, "compositional": result.compositional, "symbols": result.symbols,
        "wanted": wanted, "at": at, "made_from": len(said), "checked_on": len(records),
        "aligned_bits": align(messages, found).information, "aligned_bits_shuffled": mean(moved),
        "distinct_symbols": len({symbol for message in messages for symbol in message}),
        "entries": [one | {"specific": each.specific(at)} for one, each in zip(shown, checked, strict=True)],
    }  # fmt: skip


async def removals(subject: Subject, records: Sequence[Record]) -> list[Removal]:
    """Delete each symbol of each message that became Python, wherever it stands, and decode what is left.

    raises  RoomError if the decoder gives no answer
    """
    asked: list[tuple[int, int, str]] = []
    before = [pieces_of(record.program) if record.program else None for record in records]
    for task, record in enumerate(records):
        if before[task] is not None:
            ids = subject.words.ids(record.message)
            asked += [
                (task, symbol, subject.words.text(without(ids, [symbol]))) for symbol in dict.fromkeys(ids)
            ]
    programs: list[str] = []
    config: TextConfig = subject.config
    pace = Pace("messages without a symbol", len(asked))
    async with Exchange(config) as exchange:
        for start in range(0, len(asked), CHUNK):
            texts = [text for _, _, text in asked[start : start + CHUNK]]
            answer = await exchange.decoder.decode(
                texts, max_new_tokens=config.max_program_tokens, temperature=0.0
            )
            programs += [program.text for program in answer]
            pace.add(len(texts))
    return [
        Removal(task, symbol, before[task] or frozenset(), pieces_of(program))
        for (task, symbol, _), program in zip(asked, programs, strict=True)
    ]


def _shown(
    checked: Checked, subject: Subject, tasks: Sequence[Task], said: Sequence[Message]
) -> dict[str, Any]:
    """Return an entry for a reader: the symbol as text, and messages with it beside their programs."""
    entry = checked.entry
    examples = [
        {"message": said[i].text, "program": tasks[i].reference, "task": tasks[i].task_id}
        for i in entry.examples
    ]
    symbol = subject.words.shown(int(str(entry.symbol)))
    return replace(checked, entry=replace(entry, symbol=symbol)).as_json() | {"examples": examples}
