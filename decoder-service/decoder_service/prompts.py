"""The decoder's own prompt. Its only inputs are a message and fixed examples; it never sees a task.

There is no argument through which a task, a test or a function's name could come in: what is not in
the message (or in the operator's few-shot file, the same for every message) is not in the prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field, ValidationError

from shared.errors import InvalidRequest
from shared.wire import Wire

DECODER_ROLE = (
    "You are a decoder. The user's turn is a compressed message about one Python function, written by an "
    "encoder that wanted to save tokens. The message is all you get: there is no other context, no task "
    "description and no tests. Work out the code it stands for and reply with the Python code only: "
    "no explanation and no Markdown."
)

Turn = dict[str, str]


class Example(Wire):
    """One line of the few-shot file: a message and the program it stands for."""

    message: str = Field(min_length=1)
    program: str = Field(min_length=1)


def read_examples(path: Path | None) -> tuple[Example, ...]:
    """Read the few-shot file: JSON Lines of {"message": ..., "program": ...}; blank lines are skipped.

    path     None means no examples
    raises   InvalidRequest naming DECODER_FEW_SHOT, the line and what is wrong with it
    """
    if path is None:
        return ()
    field = "DECODER_FEW_SHOT"
    try:
        # Not splitlines(): a JSON string may hold U+2028 and its like as they are.
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8 ({error})"
        hint = "name a readable JSONL file, or unset it"
        raise InvalidRequest(f"{field}={str(path)!r}: {reason}", hint=hint, field=field) from error
    examples = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            examples.append(Example.model_validate_json(line))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            what = f"{where}: {first['msg']}" if where else str(first["msg"])
            detail = f"{field}={str(path)!r}, line {number}: {what}"
            hint = 'every line is {"message": "...", "program": "..."} and nothing else'
            raise InvalidRequest(detail, hint=hint, field=field) from error
    return tuple(examples)


def conversation(message: str, examples: Sequence[Example] = ()) -> list[Turn]:
    """Return the chat the generator continues: the role, the examples, and the message as the last turn.

    message   what the student sent, verbatim and alone in its turn
    examples  earlier (message, program) pairs, the same for every message
    source    the roles of the first Psuedoptimal experiment, in our words
    """
    turns = [{"role": "system", "content": DECODER_ROLE}]
    for example in examples:
        turns.append({"role": "user", "content": example.message})
        turns.append({"role": "assistant", "content": example.program})
    turns.append({"role": "user", "content": message})
    return turns


def merge_role(turns: Sequence[Turn]) -> list[Turn]:
    """Put the role in front of the first user turn, for chat templates that refuse a system turn."""
    role, first, *rest = turns
    return [{"role": "user", "content": f"{role['content']}\n\n{first['content']}"}, *rest]


def plain_text(turns: Sequence[Turn]) -> str:
    """Render a conversation for a tokenizer without a chat template; ends where the program begins."""
    headings = {"user": "# Message\n", "assistant": "# Python\n", "system": ""}
    parts = [headings[turn["role"]] + turn["content"] for turn in turns]
    return "\n\n".join([*parts, "# Python\n"])


def template_sha256(examples: Sequence[Example], chat_template: str | None) -> str:
    """Hash everything that words the prompt: the role, the examples, and the template or the plain form."""
    form = chat_template if chat_template is not None else plain_text(conversation("", ()))
    identity = json.dumps([DECODER_ROLE, [[e.message, e.program] for e in examples], form])
    return hashlib.sha256(identity.encode()).hexdigest()
