"""Who is measured in one run: its student, the student it started from, and the baselines at its budget.

Loads models (through `students`), talks to no service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.config_text import TextConfig
from trainer.measure.baselines import baselines, shuffled
from trainer.measure.folder import checkpoint_folder, checkpoint_name
from trainer.measure.language import describe
from trainer.measure.record import Message, Sender
from trainer.measure.students import Student, encode_tasks, load_student
from trainer.tasks.task import Task


@dataclass(frozen=True)
class RunSenders:
    """What one run has to say, before anything is measured.

    reference_tokens  by task id, the reference code's tokens under the student's tokenizer
    language          statistics of the messages, by sender
    """

    checkpoint: str
    senders: list[Sender]
    reference_tokens: dict[str, int]
    language: dict[str, dict[str, Any]]


def senders_of(
    run: Path, config: TextConfig, which: str, tasks: Sequence[Task], with_baselines: bool = True
) -> RunSenders:
    """Have the run's student and the one it started from write their messages, and add the baselines.

    run     run folder
    which   checkpoint: best, last or a step
    raises  FileNotFoundError without that checkpoint
    """
    from trainer.channels.text.student import precision, quiet_libraries

    quiet_libraries()
    checkpoint, base, chosen = checkpoint_folder(run, which), config.student_source, precision(config)
    most = config.max_completion_length
    untrained = load_student(base, precision=chosen)
    before = encode_tasks(untrained, tasks, max_new_tokens=most, told="messages of the untrained student")
    student = load_student(checkpoint, base=base, precision=chosen)
    messages = encode_tasks(student, tasks, max_new_tokens=most, told="messages of the student")
    senders = [Sender("student", "student", messages), Sender("untrained student", "untrained", before)]
    language = {sender.name: _language(student, tasks, sender.messages) for sender in senders}
    if with_baselines:
        budget = max(1, round(sum(m.tokens for m in messages) / len(messages)))
        senders += [*baselines(tasks, student.count, student.cut, budget), shuffled(messages)]
    reference_tokens = {task.task_id: student.count(task.reference) for task in tasks}
    return RunSenders(checkpoint_name(checkpoint), senders, reference_tokens, language)


def _language(student: Student, tasks: Sequence[Task], messages: Sequence[Message]) -> dict[str, Any]:
    texts = [message.text for message in messages]
    words = [student.pieces(text) for text in texts]
    return describe(
        tasks, texts, words, length_of=lambda word: len(student.tokenizer.decode([word]))
    ).as_json()
