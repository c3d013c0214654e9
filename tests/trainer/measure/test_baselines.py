"""What is sent without training."""

from __future__ import annotations

from trainer.measure.baselines import baselines, described, minified, shuffled
from trainer.measure.record import Message
from trainer.tasks.task import Task

REFERENCE = '''def total(numbers):
    """Add the odd ones."""
    result = 0
    for number in numbers:
        if number % 2 == 1:
            result = result + number
    return result
'''
TASK = Task(
    "t/1",
    "Add the odd numbers.",
    "def total(numbers):",
    "total",
    REFERENCE,
    ("assert total([1, 2, 3]) == 4",),
)
BROKEN = TASK._replace(task_id="t/2", reference="def total(x):\n    return (\n")


def words(text: str) -> int:
    return len(text.split())


def first_words(text: str, n: int) -> str:
    return " ".join(text.split()[:n])


def test_the_minified_reference_is_shorter_keeps_its_name_and_still_works() -> None:
    found = minified(REFERENCE)
    assert found.refusal == "" and len(found.code) < len(REFERENCE) * 0.7
    names: dict[str, object] = {}
    exec(found.code, names)  # our own text, not a model's
    assert names["total"]([1, 2, 3]) == 4  # type: ignore[operator]


def test_what_the_minifier_refuses_is_sent_as_it_is_and_named() -> None:
    assert minified(BROKEN.reference).code == BROKEN.reference
    found = {b.name: b for b in baselines([TASK, BROKEN], words, first_words, 3)}["minified reference"]
    assert found.messages[1].text == BROKEN.reference
    assert found.notes[0] == "1 of 2 fell back on the reference"
    assert found.notes[1].startswith("t/2: SyntaxError")


def test_every_baseline_has_one_message_per_task_counted_by_the_students_tokens() -> None:
    found = {b.name: b for b in baselines([TASK], words, first_words, 3)}
    assert {b.kind for b in found.values()} == {"baseline", "control"}
    assert found["task text"].messages == [Message("Add the odd numbers.\ndef total(numbers):", 6)]
    assert found["task text, truncated"].messages == [Message("Add the odd", 3)]
    assert found["reference, truncated"].messages == [Message('def total(numbers): """Add', 3)]
    assert found["signature only"].messages == [Message(TASK.signature, 2)]
    assert found["empty message"].messages == [Message("", 0)]


def test_the_signature_belongs_to_the_task_text() -> None:
    assert described(TASK).endswith(TASK.signature)


def test_shuffling_sends_every_message_once_and_none_for_its_own_task() -> None:
    messages = [Message(str(i), 1) for i in range(7)]
    found = shuffled(messages, seed=1)
    assert sorted(found.messages) == sorted(messages)
    assert all(sent != own for sent, own in zip(found.messages, messages, strict=True))
    assert found.messages == shuffled(messages, seed=1).messages


def test_a_single_message_cannot_be_shuffled_and_says_so() -> None:
    assert shuffled([Message("x", 1)]).notes
