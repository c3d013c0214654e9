"""Is it a code or a trick? Whatever could show a student's messages to be less than they seem.

Every control goes through the run's own decoder and sandbox, on the same held-out tasks as the student. An
outage is an error, never a failed task.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.clients import run
from trainer.channels.text.exchange import Exchange, job_of
from trainer.config_text import TextConfig
from trainer.measure.baselines import shuffled
from trainer.measure.causal import broken, effects, importance, needed
from trainer.measure.controls_decoders import Other, decoding
from trainer.measure.controls_messages import SHARES, beginning, changes, foreign, name_only, noise, unnamed
from trainer.measure.controls_tasks import NEUTRAL, aliased, dealt_names, halved, hidden, renamed
from trainer.measure.evaluate import evaluate_messages, measure
from trainer.measure.rates_read import Words
from trainer.measure.record import Message, Record, Sender
from trainer.measure.statistics import Interval, bootstrap_ratio, wilson
from trainer.measure.students import Student, encode_tasks
from trainer.tasks.task import Task

LEVEL = 0.05
WIDER = 4


@dataclass(frozen=True)
class Subject:
    """Whose messages are examined, and with what.

    messages  [N] its greedy messages, one a task
    elsewhere its messages to tasks that are not measured
    config    the run's own, with the services' URLs in it
    """

    student: Student
    words: Words
    tasks: list[Task]
    messages: list[Message]
    elsewhere: list[Message]
    config: TextConfig


def senders(subject: Subject) -> dict[str, Any]:
    """Measure the student beside messages that carry nothing of the task.

    returns  {"rows": [...], "clean": whether every control passes at most 5 %}
    """
    ids = [subject.words.ids(m.text) for m in subject.messages]
    sent = [
        Sender("student", "student", subject.messages),
        Sender("empty message", "control", [Message("", 0) for _ in subject.tasks]),
        shuffled(subject.messages),
        foreign(subject.elsewhere, len(subject.tasks)),
        noise(ids, subject.words),
        name_only(subject.tasks, subject.words),
    ]
    found = run(measure(subject.tasks, sent, _reference_tokens(subject), subject.config))
    controls = [row for row in found.rows if row.kind == "control"]
    return {
        "rows": [row.as_json() for row in found.rows],
        "records": {"student": [r._asdict() for r in found.records["student"]]},
        "clean": all(row.pass_rate.value <= LEVEL for row in controls), "level": LEVEL,
    }  # fmt: skip


def _reference_tokens(subject: Subject) -> dict[str, int]:
    return {task.task_id: len(subject.words.ids(task.reference)) for task in subject.tasks}


def names(subject: Subject) -> list[dict[str, Any]]:
    """Call the functions otherwise: does the name tell the decoder the task?

    The student is told another task's name, then one it never met; last, the name is taken out of its
    messages, and whatever function comes of them answers to the name the tests call.
    """
    dealt = dealt_names(subject.tasks)
    found = []
    for title, chosen in (
        ("another task's name", dealt),
        (f"a new name, {NEUTRAL}", [NEUTRAL] * len(dealt)),
    ):
        tasks = [renamed(task, name) for task, name in zip(subject.tasks, chosen, strict=True)]
        messages = encode_tasks(subject.student, tasks, max_new_tokens=subject.config.max_completion_length)
        records = run(_through(tasks, messages, subject.config))
        found.append(_share(title, [r.passed for r in records], [m.tokens for m in messages]))
    texts = unnamed(subject.tasks, [subject.words.ids(m.text) for m in subject.messages], subject.words)
    passed = run(_aliased(subject.tasks, texts, subject.config))
    tokens = [len(subject.words.ids(text)) for text in texts]
    found.append(_share("name not sent, entry point aliased", passed, tokens))
    return found


async def _through(tasks: Sequence[Task], messages: Sequence[Message], config: TextConfig) -> list[Record]:
    async with Exchange(config.model_copy(update={"generator_temperature": 0.0})) as exchange:
        return await evaluate_messages(tasks, messages, exchange)


async def _aliased(tasks: Sequence[Task], texts: Sequence[str], config: TextConfig) -> list[bool]:
    async with Exchange(config) as exchange:
        programs = await exchange.decoder.decode(
            list(texts), max_new_tokens=config.max_program_tokens, temperature=0.0
        )
        jobs = [
            job_of(task, aliased(program.text, task.entry_point), config)
            for task, program in zip(tasks, programs, strict=True)
        ]
        verdicts = await exchange.sandbox.judge(jobs, min_assurance=config.min_assurance)
    return [verdict.outcome == "passed" for verdict in verdicts]


def _share(name: str, passed: Sequence[bool], tokens: Sequence[int]) -> dict[str, Any]:
    return {
        "name": name, "n": len(passed), "pass_rate": wilson(sum(passed), len(passed))._asdict(),
        "tokens": statistics.fmean(tokens),
    }  # fmt: skip


def tests(subject: Subject, records: Sequence[Record]) -> list[dict[str, Any]]:
    """Judge the programs again by tests that nobody has seen.

    records  what the student's messages became
    returns  by kind of hidden test: of the programs that passed the seen ones, the share that passes these
    """
    found = []
    pairs = [(task, r) for task, r in zip(subject.tasks, records, strict=True) if not r.refused]
    halves = [(half, r.program) for task, r in pairs if (half := halved(task))]
    first = run(_judged([(a, p) for (a, _), p in halves], subject.config))
    second = run(_judged([(b, p) for (_, b), p in halves], subject.config))
    kept = [two for one, two in zip(first, second, strict=True) if one]
    found.append(("the other half of the tests, of those that pass the first half", kept))
    fresh = [(new, r.program) for task, r in pairs if r.passed and (new := hidden(task))]
    if fresh:
        found.append(("new tests, of those that pass all", run(_judged(fresh, subject.config))))
    return [
        {"name": name, "n": len(passed), "pass_rate": wilson(sum(passed), len(passed))._asdict()}
        for name, passed in found
        if passed
    ]


async def _judged(pairs: Sequence[tuple[Task, str]], config: TextConfig) -> list[bool]:
    async with Exchange(config) as exchange:
        jobs = [job_of(task, program, config) for task, program in pairs]
        verdicts = await exchange.sandbox.judge(jobs, min_assurance=config.min_assurance)
    return [verdict.outcome == "passed" for verdict in verdicts]


def prefixes(subject: Subject) -> dict[str, Any]:
    """Send only the beginning of each message, ever more of it. Returns {"steps": [...]}, without 0 and 1."""
    steps = []
    ids = [subject.words.ids(m.text) for m in subject.messages]
    for share in SHARES:
        cut = [beginning(message, share) for message in ids]
        messages = [Message(subject.words.text(part), len(part)) for part in cut]
        records = run(_through(subject.tasks, messages, subject.config))
        passed = [r.passed for r in records]
        kept = ("message", "tokens", "outcome", "refused")
        steps.append({
            "share": share, **_share(f"first {share:.0%}", passed, [m.tokens for m in messages]),
            "records": [{k: getattr(r, k) for k in kept} for r in records],
        })  # fmt: skip
        print(f"  first {share:.0%} of each message: {sum(passed)} passed", file=sys.stderr)
    return {"steps": steps}


def interventions(subject: Subject, records: Sequence[Record], *, most: int, seed: int = 0) -> dict[str, Any]:
    """Delete, replace and move the tokens of messages that pass, one at a time.

    most     messages at most: each gives about four changed ones a token
    returns  {"kinds", "needed", "symbols"}
    """
    places = [i for i, r in enumerate(records) if r.passed][:most]
    tasks = [subject.tasks[i] for i in places]
    changed = changes([subject.words.ids(subject.messages[i].text) for i in places], subject.words, seed=seed)
    found = run(_effects(tasks, changed, subject.config))
    return {
        "messages": len(places),
        "kinds": [{"kind": b.kind, "n": b.n, "broken": b.rate._asdict()} for b in broken(found)],
        "needed": needed(found),
        "symbols": [row.as_json() for row in importance(found, subject.words.shown)],
    }


async def _effects(tasks: Sequence[Task], changed: Sequence[Any], config: TextConfig) -> Any:
    async with Exchange(config.model_copy(update={"generator_temperature": 0.0})) as exchange:
        return await effects(tasks, changed, exchange)


def transfer(
    subject: Subject, records: Sequence[Record], decoders: Sequence[Other], logs: Path
) -> list[dict[str, Any]]:
    """Have other decoders read the same messages, and the reference code beside them.

    records  what the messages became by the run's own decoder
    returns  by decoder: pass rates of the student, of the reference, and of shuffled messages; `kept` is the
             student's pass rate over that with its own decoder, 95 % over the same tasks
    """
    own = [float(r.passed) for r in records]
    sent = [
        Sender("student", "student", subject.messages),
        Sender("reference", "baseline", [Message(t.reference, 0) for t in subject.tasks]),
        shuffled(subject.messages),
    ]
    found = []
    warm = subject.config.model_copy(update={"generator_temperature": 0.7})
    passed = [[r.passed for r in run(_as_sent(subject.tasks, s.messages, warm))] for s in sent]
    found.append(_transferred("own generator, temperature 0.7", passed, own))
    for other in decoders:
        with decoding(other, logs) as url:
            # Another tokenizer may take more tokens for the same program.
            room = WIDER * subject.config.max_program_tokens
            located = subject.config.model_copy(update={"decoder_url": [url], "max_program_tokens": room})
            passed = [[r.passed for r in run(_through(subject.tasks, s.messages, located))] for s in sent]
        found.append(_transferred(other.name, passed, own))
        print(f"  {other.name}: {sum(passed[0])} of {len(own)} passed", file=sys.stderr)
    return found


async def _as_sent(tasks: Sequence[Task], messages: Sequence[Message], config: TextConfig) -> list[Record]:
    async with Exchange(config) as exchange:
        return await evaluate_messages(tasks, messages, exchange)


def _transferred(name: str, passed: Sequence[Sequence[bool]], own: Sequence[float]) -> dict[str, Any]:
    rates: list[Interval] = [wilson(sum(p), len(p)) for p in passed]
    kept = bootstrap_ratio([float(p) for p in passed[0]], own)
    return {
        "decoder": name, "student": rates[0]._asdict(), "reference": rates[1]._asdict(),
        "shuffled": rates[2]._asdict(), "kept": kept._asdict(),
    }  # fmt: skip
