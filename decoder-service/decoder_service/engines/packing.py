"""From a conversation to tokens with the latent block's place in them, in each of the three layouts.

plain   every turn's text and a newline, no roles and no end marks; the block stands after the newline of
        the first user turn. What an assistant says is supervised, its newline is not
chat    the model's own template; the block stands at the end of the first user turn, inside it. What an
        assistant says is supervised, and the mark that ends its turn
blind   the decoder's own prompt, the block in the message's place; the program and its end are supervised
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from decoder_service.engines.prompting import Prompting
from decoder_service.latents import Packed, shortened
from shared.errors import InvalidRequest
from shared.wire_latents import Layout, Turn


class Packing:
    """Packs conversations with one tokenizer."""

    def __init__(
        self,
        prompting: Prompting,
        stop_ids: Collection[int],
        *,
        vocabulary: int,
        context_tokens: int | None,
    ) -> None:
        self._prompting, self._stop_ids = prompting, stop_ids
        self._vocabulary, self._context = vocabulary, context_tokens

    def told(
        self, conversations: Sequence[Sequence[Turn]], layout: Layout, *, ends: bool = True
    ) -> list[Packed]:
        """Pack conversations whose assistant turns are known, [N].

        ends     whether the mark that ends an assistant's turn is supervised, where the layout has one
        raises   InvalidRequest naming the conversation
        """
        return [self._checked(self._told(turns, layout, ends, n), n) for n, turns in enumerate(conversations)]

    def asked(self, conversations: Sequence[Sequence[Turn]], layout: Layout) -> list[Packed]:
        """Pack conversations that end with a user turn, up to where the assistant's answer begins, [N].

        raises   InvalidRequest naming the conversation
        """
        return [self._checked(self._asked(turns, layout, n), n) for n, turns in enumerate(conversations)]

    def blind(self) -> Packed:
        """Pack the decoder's own prompt with nothing in the message's place, open at its end."""
        before, after, _ = self._prompting.frame()
        return _joined([(before, False), (after, False)], len(before))

    def fitted(
        self, batch: Sequence[Packed], *, inserted: int, new_tokens: int = 0, max_length: int | None = None
    ) -> list[Packed]:
        """Cut conversations to max_length, the block counted; without one, refuse what is too long.

        inserted     length of the block, K + 2, or 0
        new_tokens   tokens that must still have room behind
        raises       InvalidRequest naming the conversation and by how much it is too long
        """
        context = self._context
        if max_length is not None and context is not None and max_length > context:
            detail = f"max_length={max_length} is more than the model's context of {context}"
            raise InvalidRequest(detail, hint=f"use {context} or less", field="max_length")
        if max_length is not None:
            if max_length <= inserted:
                detail = f"max_length={max_length} does not even hold the block of {inserted}"
                raise InvalidRequest(detail, hint="raise it, or send fewer latents", field="max_length")
            return [shortened(packed, max_length - inserted) for packed in batch]
        for number, packed in enumerate(batch):
            whole = len(packed.token_ids) + inserted + new_tokens
            if context is not None and whole > context:
                raise InvalidRequest(
                    f"conversations[{number}]: {len(packed.token_ids)} tokens, a block of {inserted} and "
                    f"{new_tokens} new tokens are {whole - context} over the model's context of {context}",
                    hint="send a shorter one or fewer latents, lower max_new_tokens, or set max_length",
                    field=f"conversations[{number}]",
                )
        return list(batch)

    def _told(self, turns: Sequence[Turn], layout: Layout, ends: bool, number: int) -> Packed:
        if layout == "blind":
            return self._program(turns, number)
        parts, at = self._parts(turns, layout, number, open_end=False)
        if layout == "chat" and ends:
            parts = [
                split
                for index, (ids, supervised) in enumerate(parts)
                for split in self._ended(ids, supervised, bool(index) and parts[index - 1][1])
            ]
        return _joined(parts, at)

    def _asked(self, turns: Sequence[Turn], layout: Layout, number: int) -> Packed:
        if turns[-1].role != "user":
            raise _refused(number, "the last turn must be a user's, which the model then answers")
        parts, at = self._parts(turns, layout, number, open_end=True)
        return _joined([(ids, False) for ids, _ in parts], at)

    def _program(self, turns: Sequence[Turn], number: int) -> Packed:
        if len(turns) != 1 or turns[0].role != "assistant":
            raise _refused(number, "in the blind layout it is one assistant turn, the program, and no more")
        before, after, end = self._prompting.frame()
        program = self._prompting.plain([turns[0].content])[0]
        stop = [end[0]] if end and end[0] in self._stop_ids else []
        return _joined([(before, False), (after, False), ([*program, *stop], True)], len(before))

    def _parts(
        self, turns: Sequence[Turn], layout: Layout, number: int, *, open_end: bool
    ) -> tuple[list[tuple[list[int], bool]], int]:
        """Return runs of tokens, each with whether an assistant says them, and how many precede the block."""
        first = next((place for place, turn in enumerate(turns) if turn.role == "user"), None)
        if first is None:
            raise _refused(number, "it has no user turn after which the latents could stand")
        contents = self._prompting.plain([turn.content for turn in turns])
        if layout == "plain":
            newline = self._prompting.plain(["\n"])[0]
            parts = [
                part
                for turn, ids in zip(turns, contents, strict=True)
                for part in ((ids, turn.role == "assistant"), (newline, False))
            ]
            before = parts[: 2 * first + 2]
        else:
            places = [f"\ue000{place}\ue001" for place in range(len(turns))]
            worded = [{"role": t.role, "content": place} for t, place in zip(turns, places, strict=True)]
            marks = self._prompting.around(worded, places, open_end=open_end)
            parts = [(marks[0], False)]
            for turn, ids, following in zip(turns, contents, marks[1:], strict=True):
                parts += [(ids, turn.role == "assistant"), (following, False)]
            before = parts[: 2 * first + 2]
        return parts, sum(len(ids) for ids, _ in before)

    def _ended(self, ids: list[int], supervised: bool, after_assistant: bool) -> list[tuple[list[int], bool]]:
        if after_assistant and ids and ids[0] in self._stop_ids:
            return [(ids[:1], True), (ids[1:], False)]
        return [(ids, supervised)]

    def _checked(self, packed: Packed, number: int) -> Packed:
        # On a GPU the look-up would take the whole device down.
        if (largest := max(packed.token_ids, default=0)) >= self._vocabulary:
            raise _refused(number, f"token {largest} is beyond the model's {self._vocabulary}")
        return packed


def check_supervised(batch: Sequence[Packed]) -> None:
    """Raise InvalidRequest, naming the first conversation that has nothing left to predict."""
    for number, packed in enumerate(batch):
        if not any(packed.supervised[1:]):
            why = "no assistant turn has a token"
            if packed.cut:
                why = f"none of its assistant's tokens is left once {packed.cut} are cut away for max_length"
            raise _refused(number, why)


def _joined(parts: Sequence[tuple[list[int], bool]], at: int) -> Packed:
    ids = tuple(token for run, _ in parts for token in run)
    supervised = tuple(wanted for run, wanted in parts for _ in run)
    return Packed(ids, supervised, max(1, min(at, len(ids))))


def _refused(number: int, why: str) -> InvalidRequest:
    field = f"conversations[{number}]"
    return InvalidRequest(f"{field}: {why}", hint="correct or leave out this conversation", field=field)
