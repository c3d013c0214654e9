"""The starter world's tasks as conversations: the description, then the reference program.

The plan is the shortest shorthand of the program (trainer.starter.shorthand): the first token of each
group that carries meaning, e.g. "inspect result range % 2 != % 7". The frozen generator was trained to
read such shorthand; the student was not trained to write it.
"""

from __future__ import annotations

from shared.wire_latents import Turn
from trainer.channels.text.prompts import encoder_messages
from trainer.config_text import STARTER_STUDENT
from trainer.measure.students import load_tokenizer
from trainer.starter.shorthand import tokenize_marked
from trainer.tasks.conversations import Conversation
from trainer.tasks.starter import StarterTask, generate


def starter_conversations(split: str, n: int, seed: int = 0) -> list[Conversation]:
    """Return n conversations of a split (train, validation, test); see trainer.tasks.starter.generate."""
    tokenizer = load_tokenizer(str(STARTER_STUDENT))
    return [_conversation(made, tokenizer) for made in generate(split, n, seed)]


def _conversation(made: StarterTask, tokenizer: object) -> Conversation:
    asked = encoder_messages(made.task)[-1]["content"]
    turns = (Turn(role="user", content=asked), Turn(role="assistant", content=made.task.reference))
    return Conversation(made.task.task_id, turns, shortest(made, tokenizer), made.task)


def shortest(made: StarterTask, tokenizer: object) -> str:
    """Return the shortest shorthand of a task's reference: the first token of every group."""
    tokens = tokenize_marked(made.marked, tokenizer)  # type: ignore[arg-type]
    first: dict[str, int] = {}
    for place, group in enumerate(tokens.groups):
        if group:
            first.setdefault(group, place)
    ids = [tokens.ids[place] for place in sorted(first.values())]
    return str(tokenizer.decode(ids)).strip()  # type: ignore[attr-defined]
