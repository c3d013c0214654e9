"""From conversations to batches: what the student reads in tokens, what the teacher reads in turns."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from shared.errors import InvalidRequest
from shared.wire_latents import Turn
from trainer.config import ConfigError
from trainer.config_latent import LatentConfig
from trainer.tasks.conversations import Conversation
from trainer.tasks.hidden_states import HiddenStates


class Contexts:
    """Puts what the student reads into its tokens: plan prefix and turns, up to the first user's.

    start_id  the token the start vector begins as; None: random, as in the seed
    """

    def __init__(self, config: LatentConfig, tokenizer: Any) -> None:
        self._config, self._tokenizer = config, tokenizer
        if config.student_layout == "chat" and tokenizer.chat_template is None:
            raise ConfigError(
                f"student_layout='chat': {config.student_model_name_or_path!r} has no chat template; "
                "take plain"
            )
        self.start_id: int | None = None
        if config.student_layout == "chat":
            self.start_id = self._rendered([Turn(role="user", content="x")])[-1]

    def ids(self, conversation: Conversation) -> list[int]:
        """Return the context's tokens, at most model_max_length, cut at the end as conversations are."""
        turns = list(conversation.asked)
        if self._config.student_layout == "chat":
            turns[-1] = Turn(role="user", content=self._prefixed(turns[-1].content))
            # The last token of the template's opening is what the start vector stands for.
            return self._rendered(turns)[:-1][-self._config.model_max_length :]
        text = self._prefixed("".join(turn.content + "\n" for turn in turns))
        return self._plain(text)[: self._config.model_max_length]

    def plan(self, conversation: Conversation) -> list[int]:
        """Return the plan in the student's tokens."""
        return self._plain(conversation.plan)

    @property
    def end_id(self) -> int:
        """The token that ends the student's turn."""
        return int(self._tokenizer.eos_token_id)

    def _prefixed(self, text: str) -> str:
        return self._config.plan_prefix + text

    def _plain(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"])

    def _rendered(self, turns: Sequence[Turn]) -> list[int]:
        worded = [{"role": turn.role, "content": turn.content} for turn in turns]
        text = self._tokenizer.apply_chat_template(worded, tokenize=False, add_generation_prompt=True)
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])


def told(conversation: Conversation, layout: str) -> list[Turn]:
    """Return what the teacher is sent: the turns; in the blind layout what it has to say, alone."""
    if layout == "blind":
        return [turn for turn in conversation.turns if turn.role == "assistant"][:1]
    return list(conversation.turns)


def at_fault(error: InvalidRequest, rows: Sequence[Conversation], data_path: str) -> Exception:
    """Return a teacher's refusal with file and id in place of the row's number in its batch."""
    found = re.fullmatch(r"conversations\[(\d+)\]", error.field)
    if found is None or int(found[1]) >= len(rows):
        return error
    detail = error.detail.removeprefix(f"{error.field}: ")
    return ConfigError(
        f"data_path={data_path!r}, id {rows[int(found[1])].id!r}: {detail}; correct or leave out this "
        "conversation, or raise --model_max_length"
    )


@dataclass(frozen=True)
class Held:
    """A batch's conversations, in a form that transformers and accelerate hand on as it is."""

    rows: list[Conversation]


class Batch(NamedTuple):
    """Contexts padded on the left [N, T], the conversations [N], stored states [N, K, H] or None."""

    input_ids: Tensor
    attention_mask: Tensor
    conversations: Held
    data: Tensor | None


class Collator:
    """Makes a batch of conversations; stored states are read when they are needed."""

    def __init__(
        self, contexts: Contexts, hidden: HiddenStates | None, vectors: int, width: int, pad_id: int
    ) -> None:
        self._contexts, self._hidden = contexts, hidden
        self._vectors, self._width, self._pad = vectors, width, pad_id

    def __call__(self, rows: Sequence[Conversation]) -> dict[str, Any]:
        """Return a Batch as a dict, as transformers' Trainer wants it."""
        return self.batch(rows)._asdict()

    def batch(self, rows: Sequence[Conversation]) -> Batch:
        """Return the batch of these conversations."""
        ids, mask = padded([self._contexts.ids(row) for row in rows], self._pad)
        data = None
        if self._hidden is not None:
            states = [self._hidden.states(row.id, self._vectors, self._width) for row in rows]
            data = torch.stack([torch.from_numpy(each.copy()) for each in states])
        return Batch(ids, mask, Held(list(rows)), data)


def padded(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Pad on the left. The mask is by length: a real token may well be the padding's number."""
    longest = max(len(row) for row in rows)
    ids, mask = torch.full((len(rows), longest), pad_id), torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, longest - len(row) :] = torch.tensor(row)
        mask[number, longest - len(row) :] = 1
    return ids, mask
