"""An exported student as a codec: a task to a message, a message to bits and back, for one decoder only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared.wire import ModelCard
from trainer.config import ConfigError
from trainer.config_text import STARTER_STUDENT
from trainer.export import CODEC, FORMAT, MESSAGES, sha256
from trainer.measure.message_code import CodeError, MessageModel
from trainer.measure.rates_read import Words
from trainer.measure.record import Message
from trainer.tasks.task import Task

# What makes a decoder the one that messages were made for; the rest (device, versions) may change.
IDENTITY: tuple[str, ...] = ("engine", "weights_sha256", "template_sha256", "quantization")
# What tells generators apart where no hash of their weights does, as behind a remote server.
NAMED: tuple[str, ...] = ("name", "revision")


@dataclass(frozen=True)
class Codec:
    """A student's folder, checked.

    about  what codec.json holds
    words  the student's tokenizer
    model  how likely its messages are
    """

    folder: Path
    about: dict[str, Any]
    words: Words
    model: MessageModel

    def encode(self, tasks: Sequence[Task]) -> list[Message]:
        """Have the student write one message per task, greedily. Loads the model each time it is called."""
        from trainer.channels.text.student import quiet_libraries
        from trainer.measure.students import encode_tasks, load_student

        quiet_libraries()
        base: str | None = None
        if self.about["kind"] == "adapter":
            base = str(self.about["base"])
            base = str(STARTER_STUDENT) if base == "psuedoptimal-starter-student" else base
        student = load_student(self.folder, base=base)
        most = int(self.about["max_message_tokens"])
        return encode_tasks(student, tasks, max_new_tokens=most, told="messages")

    def to_bits(self, message: str) -> str:
        """Return a message's code word. Raises CodeError for a text that its tokens do not give back."""
        ids = self.words.ids(message)
        if self.words.text(ids) != message:
            raise CodeError(
                f"{message!r}: not what its tokens say; only a student's own spelling has a code word"
            )
        return self.model.encode(ids)

    def from_bits(self, bits: str) -> list[str]:
        """Return the messages of a stream of code words. Raises CodeError."""
        found, place = [], 0
        while place < len(bits):
            ids, place = self.model.decode(bits, place)
            found.append(self.words.text(ids))
        return found

    def check(self, decoder: ModelCard) -> None:
        """Refuse a decoder that the messages were not made for.

        Without a hash of the weights it goes by what a server calls them, which may be wrong.

        raises  ConfigError naming what differs
        """
        own, names = self.about["decoder"], IDENTITY
        if None in (own.get("weights_sha256"), decoder.weights_sha256):
            names += NAMED if decoder.revision else NAMED[:1]
        differ = [
            f"{name} {getattr(decoder, name)!r} instead of {own.get(name)!r}"
            for name in names
            if own.get(name) is not None and getattr(decoder, name) != own[name]
        ]
        if differ:
            raise ConfigError(
                f"this decoder, {decoder.name}, is not the one the messages are made for "
                f"({own.get('name')}): {'; '.join(differ)}. Start that one, or say --any-decoder"
            )


def read_codec(folder: Path) -> Codec:
    """Read an exported student and see that every file is as it was written.

    raises  ConfigError if it is none, of another format, or damaged
    """
    file = folder / CODEC
    if not file.is_file():
        raise ConfigError(
            f"{folder}: no {CODEC}, so no codec; `psuedoptimal export RUN --out FOLDER` makes one"
        )
    try:
        about = json.loads(file.read_text(encoding="utf-8"))
        if about["format"] != FORMAT:
            raise ConfigError(
                f"{file}: format {about['format']}, this version reads {FORMAT}; export it again"
            )
        for name, wanted in about["files"].items():
            if not (folder / name).is_file() or sha256(folder / name) != wanted:
                raise ConfigError(f"{folder / name}: missing or changed since the export; export it again")
        model = MessageModel.from_json(json.loads((folder / MESSAGES).read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{file}: cannot be read ({error!r}); export it again") from error
    words = Words(folder / "tokenizer.json")
    if words.vocabulary != model.vocabulary:
        raise ConfigError(f"{folder}: {words.vocabulary} tokens, its message model knows {model.vocabulary}")
    return Codec(folder, about, words, model)
