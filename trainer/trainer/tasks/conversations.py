"""Conversations from a JSON file, as the latent seed has them; and the split into training and evaluation.

Example row:
    {"id": "train-000001", "conversations": [{"from": "human", "value": "Sort 3, 1, 2."},
                                             {"from": "gpt", "value": "1, 2, 3."}]}
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from shared.wire import MAX_TEXT
from shared.wire_latents import MAX_TURNS, Turn
from trainer.config import ConfigError
from trainer.tasks.rows import json_lines
from trainer.tasks.task import Task

ROLES = {"human": "user", "user": "user", "system": "system", "gpt": "assistant", "assistant": "assistant"}
_NAMED = 5


class Conversation(NamedTuple):
    """One conversation. What an assistant says is supervised; the block stands after the first user turn.

    id    what the hidden states are found by
    plan  what the student may be warmed up with, and the text the latents stand for; may be empty
    task  what a blind decoder's program is judged by, where there is one
    """

    id: str
    turns: tuple[Turn, ...]
    plan: str = ""
    task: Task | None = None

    @property
    def asked(self) -> tuple[Turn, ...]:
        """The turns up to the first user turn, which is what the student reads."""
        first = next(place for place, turn in enumerate(self.turns) if turn.role == "user")
        return self.turns[: first + 1]


class Split(NamedTuple):
    """Conversations to train on and to evaluate with."""

    train: list[Conversation]
    evaluation: list[Conversation]


def read_conversations(path: Path) -> list[Conversation]:
    """Read a JSON list, or JSON lines, of conversations.

    raises  ConfigError naming the file and, by id or place, the first rows that are no conversations
    """
    rows = _rows(path)
    found, faults, seen = [], list[str](), set[str]()
    for place, row in enumerate(rows):
        name = f"row {place}"
        if isinstance(row, dict) and isinstance(row.get("id"), str | int):
            name = f"id {row['id']!r}"
        try:
            conversation = _conversation(row)
            if conversation.id in seen:
                raise ValueError("the id stands there twice")
            seen.add(conversation.id)
            found.append(conversation)
        except ValueError as error:
            faults.append(f"{name}: {error}")
    if faults:
        more = f"\n  and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
        listed = "\n  ".join(faults[:_NAMED])
        raise ConfigError(
            f"data_path={str(path)!r}: {len(faults)} of {len(rows)} rows are no conversations; correct or "
            f"remove them:\n  {listed}{more}"
        )
    if not found:
        raise ConfigError(f"data_path={str(path)!r}: holds no conversation")
    return found


def _rows(path: Path) -> list[Any]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".jsonl":
            return [row for _, row in json_lines(text)]
        data = json.loads(text)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"data_path={str(path)!r}: cannot be read as JSON ({error}); .jsonl has one row a line"
        ) from error
    if not isinstance(data, list):
        raise ConfigError(
            f"data_path={str(path)!r}: expected a list of conversations, found a {type(data).__name__}"
        )
    return data


def _conversation(row: Any) -> Conversation:
    """Return one row's conversation. Raises ValueError saying what is wrong with it."""
    if not isinstance(row, dict):
        raise ValueError(f"expected an object, found a {type(row).__name__}")
    if not isinstance(row.get("id"), str | int) or row["id"] == "":
        raise ValueError("it has no `id`")
    given = row.get("conversations")
    if not isinstance(given, list) or not given:
        raise ValueError("`conversations` must be a list of at least one turn")
    if len(given) > MAX_TURNS:
        raise ValueError(f"it has {len(given)} turns; a conversation has at most {MAX_TURNS}")
    turns = []
    for number, turn in enumerate(given):
        if not isinstance(turn, dict) or not isinstance(turn.get("value"), str):
            raise ValueError(f"turn {number} must be {{'from': ..., 'value': text}}")
        if len(turn["value"]) > MAX_TEXT:
            raise ValueError(
                f"turn {number} has {len(turn['value'])} characters; at most {MAX_TEXT} can be sent"
            )
        role = ROLES.get(turn.get("from", turn.get("role")))
        if role is None:
            raise ValueError(f"turn {number} is from {turn.get('from')!r}; known are {', '.join(ROLES)}")
        turns.append(Turn.model_validate({"role": role, "content": turn["value"]}))
    first = next((n for n, turn in enumerate(turns) if turn.role == "user"), None)
    if first is None:
        raise ValueError("it has no human turn after which the latents could stand")
    if not any(turn.role == "assistant" and turn.content for turn in turns):
        raise ValueError("no assistant turn says anything: there is nothing to learn from")
    plan = row.get("plan")
    if isinstance(plan, str) and len(plan) > MAX_TEXT:
        raise ValueError(f"its plan has {len(plan)} characters; at most {MAX_TEXT} can be sent")
    return Conversation(str(row["id"]), tuple(turns), plan if isinstance(plan, str) else "")


def split(rows: Sequence[Conversation], eval_ratio: float, seed: int) -> Split:
    """Hold out a share of the conversations, the same for the same seed; each part keeps the file's order.

    eval_ratio  0 holds out none; else at least one is held out
    raises      ConfigError if nothing would be left to train on
    """
    held = min(len(rows), max(1, round(eval_ratio * len(rows)))) if eval_ratio else 0
    if held == len(rows):
        raise ConfigError(
            f"eval_ratio={eval_ratio}: {len(rows)} conversation{'s' * (len(rows) > 1)} cannot be split: at "
            "least one is held out and one trained on; add conversations, or train without an evaluation: "
            "--eval_ratio 0"
        )
    chosen = set(random.Random(f"split/{seed}").sample(range(len(rows)), held))
    return Split(
        [row for place, row in enumerate(rows) if place not in chosen],
        [row for place, row in enumerate(rows) if place in chosen],
    )
