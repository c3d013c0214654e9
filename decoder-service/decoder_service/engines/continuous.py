"""The batch that rows join and leave while it runs: begun as they arrive, answered as they end.

A row's program does not depend on who else is there or when it joined (a test compares with the row
alone). Every row has its own length, decoding and chance.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from decoder_service.engines.engine import Asked, Decoding, Feed, Results, Row, Wanted, that_fit
from decoder_service.engines.generation import Continuation
from decoder_service.engines.memory import fits, too_small
from decoder_service.engines.prefix import Prefix
from decoder_service.engines.sampling import drawn, row_keys
from decoder_service.engines.slots import Slots
from shared.errors import RoomError
from shared.wire import Program

log = logging.getLogger(__name__)

# Of one pass over new prompts, padding counted: bounds its activations.
_PREFILL_TOKENS = 8192

AsPrograms = Callable[[Sequence[Continuation]], Sequence[Program]]


@dataclass(eq=False)
class _Flight:
    """One row: who asked, where its tokens stand, what it has said."""

    asked: Asked
    start: int = 0
    end: int = 0
    said: list[int] = field(default_factory=list)


class Continuous:
    """One model's running batch. Belongs to the model's thread; empty between two calls of `work`."""

    def __init__(
        self,
        model: Any,
        layers: int,
        prefix: Prefix,
        *,
        pad_id: int,
        stop_ids: Collection[int],
        as_programs: AsPrograms,
    ) -> None:
        self._model, self._layers, self._prefix = model, layers, prefix
        self._pad_id, self._stop_ids, self._as_programs = pad_id, stop_ids, as_programs
        self._most_tokens: int | None = None
        self._fresh: list[Asked] = []
        self._again: list[Asked] = []
        self._clear()

    @torch.inference_mode()
    def work(self, feed: Feed) -> None:
        """Decode until the feed gives nothing and nothing runs.

        raises   EngineLost when no later call can succeed either
        """
        self._most_tokens, self._fresh, self._again = None, [], []
        try:
            while True:
                self._fresh = self._joining(feed)
                if not self._fresh and not self._flights:
                    return
                if fits(partial(self._turn, feed), self._model.device) is None:
                    self._halve(feed)
        finally:
            self._clear()

    def _clear(self) -> None:
        """Let all rows and their memory go."""
        self._flights: list[_Flight] = []
        self._slots = Slots(self._layers)
        none = torch.empty(0, dtype=torch.int64, device=self._model.device)
        self._starts, self._ends, self._tokens, self._keys = none, none, none, none

    def _joining(self, feed: Feed) -> list[Asked]:
        """Take rows that may join; what the memory did not hold comes first."""
        rows = len(self._flights)
        longest = max((flight.asked.tokens for flight in self._flights), default=0)
        if not self._again:
            return list(feed.join(rows, longest, self._most_tokens))
        most = math.inf if self._most_tokens is None else self._most_tokens
        taken = that_fit(self._again, rows, longest, math.inf, most)
        self._again = self._again[len(taken) :]
        return taken

    def _halve(self, feed: Feed) -> None:
        """Begin anew with half of what did not fit; a row that does not fit alone is refused."""
        everyone = list(dict.fromkeys([*(flight.asked for flight in self._flights), *self._fresh]))
        self._clear()
        if len(everyone) == 1:
            asked = everyone[0]
            what = f"a single message of {len(asked.row.token_ids)} tokens"
            feed.done([(asked, too_small(what, asked.decoding))])
            return
        self._most_tokens = len(everyone) * max(asked.tokens for asked in everyone) // 2
        self._again = everyone + self._again
        log.warning("out of memory, batch halved", extra={"rows": len(everyone)})

    def _turn(self, feed: Feed) -> bool:
        """Begin the new rows, then let every row say one more token."""
        self._fresh.sort(key=lambda asked: len(asked.row.token_ids))
        while self._fresh:
            longest = len(self._fresh[-1].row.token_ids)
            count = max(1, min(len(self._fresh), _PREFILL_TOKENS // longest))
            tokens = self._begin(self._fresh[-count:])
            del self._fresh[-count:]
            self._settle(tokens, range(len(self._flights) - count, len(self._flights)), feed)
        if self._flights:
            self._settle(self._step(), range(len(self._flights)), feed)
        return True

    def _begin(self, group: Sequence[Asked]) -> Tensor:
        """Read the prompts of rows and return what each says first, [n]."""
        device = self._model.device
        rows = slice(len(self._flights), len(self._flights) + len(group))
        prompts = [asked.row.token_ids for asked in group]
        longest = max(map(len, prompts))
        new = self._prefix.left_to_read(prompts)
        past = longest - new
        starts = torch.tensor([longest - len(prompt) for prompt in prompts], device=device)
        read = [prompt[-new:] for prompt in prompts]
        ids = torch.tensor(
            [[self._pad_id] * (new - len(ids)) + list(ids) for ids in read], dtype=torch.int64, device=device
        )
        columns = torch.arange(longest, device=device)
        mask = columns >= starts[:, None]
        positions = (columns[past:] - starts[:, None]).clamp_(min=0)
        self._slots.prefill(rows, starts, past, new, self._prefix.states if past else None)
        logits = self._forward(ids, mask, positions)
        keys = row_keys([asked.row for asked in group]).to(device)
        tokens = drawn(logits, keys, [0] * len(group), [asked.decoding for asked in group])
        self._flights += [
            _Flight(asked, start, longest) for asked, start in zip(group, starts.tolist(), strict=True)
        ]
        self._starts = torch.cat([self._starts, starts])
        self._ends = torch.cat([self._ends, torch.full_like(starts, longest)])
        self._tokens = torch.cat([self._tokens, tokens])
        self._keys = torch.cat([self._keys, keys])
        return tokens

    def _step(self) -> Tensor:
        """Let every row say one more token, [R]. What a row said last is written at its end."""
        seen = max(flight.end for flight in self._flights) + 1
        columns = torch.arange(seen, device=self._ends.device)
        mask = (columns >= self._starts[:, None]) & (columns <= self._ends[:, None])
        self._slots.step(self._ends, seen)
        logits = self._forward(self._tokens[:, None], mask, (self._ends - self._starts)[:, None])
        steps = [len(flight.said) for flight in self._flights]
        decodings = [flight.asked.decoding for flight in self._flights]
        self._tokens = drawn(logits, self._keys, steps, decodings)
        self._ends = self._ends + 1
        for flight in self._flights:
            flight.end += 1
        return self._tokens

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        logits: Tensor = self._model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=self._slots,
            use_cache=True, logits_to_keep=1,
        ).logits[:, -1]  # fmt: skip
        return logits

    def _settle(self, tokens: Tensor, places: range, feed: Feed) -> None:
        """Note what the rows at `places` said, answer those that have ended, and let them go."""
        ended: list[tuple[int, Continuation]] = []
        for place, token in zip(places, tokens.tolist(), strict=True):
            flight = self._flights[place]
            stopped = token in self._stop_ids
            if not stopped:
                flight.said.append(token)
            dropped = not stopped and not flight.asked.wanted
            if stopped or dropped or len(flight.said) == flight.asked.decoding.max_new_tokens:
                ended.append((place, Continuation(flight.said, stopped, dropped)))
        if not ended:
            return
        programs = self._as_programs([continuation for _, continuation in ended])
        results = [
            (self._flights[place].asked, None if continuation.dropped else program)
            for (place, continuation), program in zip(ended, programs, strict=True)
        ]
        self._let_go([place for place, _ in ended])
        feed.done(results)

    def _let_go(self, gone: Sequence[int]) -> None:
        """Fill the places of rows that have ended with the last rows."""
        count = len(self._flights) - len(gone)
        holes = [place for place in gone if place < count]
        leaving = set(gone)
        last = [place for place in range(count, len(self._flights)) if place not in leaving]
        order = list(range(count))
        for hole, place in zip(holes, last, strict=True):
            order[hole] = place
        if holes:
            self._slots.move(last, holes)
        self._flights = [self._flights[place] for place in order]
        kept = torch.tensor(order, dtype=torch.int64, device=self._ends.device)
        self._starts, self._ends = self._starts[kept], self._ends[kept]
        self._tokens, self._keys = self._tokens[kept], self._keys[kept]


@dataclass(eq=False)
class _Own:
    """One row of a call of `decode`."""

    row: Row
    decoding: Decoding
    place: int
    wants: Wanted

    @property
    def tokens(self) -> int:
        return len(self.row.token_ids) + self.decoding.max_new_tokens

    @property
    def wanted(self) -> bool:
        return self.wants(self.place)


class OwnFeed:
    """The feed of one call: its rows begin together, and nothing joins them."""

    def __init__(self, rows: Sequence[Row], decoding: Decoding, wanted: Wanted) -> None:
        self._waiting = [_Own(row, decoding, place, wanted) for place, row in enumerate(rows)]
        self._found: list[Program | RoomError | None] = [None] * len(rows)

    def join(self, rows: int, longest: int, most_tokens: int | None = None) -> Sequence[Asked]:
        taken, self._waiting = self._waiting, []
        return taken

    def batch(self) -> Sequence[Asked]:
        return self.join(0, 0)

    def done(self, results: Results) -> None:
        for asked, result in results:
            assert isinstance(asked, _Own)
            self._found[asked.place] = result

    def results(self) -> list[Program | None]:
        """Return each row's program, or None where it was let go; raise what a row failed on."""
        for result in self._found:
            if isinstance(result, RoomError):
                raise result
        return [result for result in self._found if not isinstance(result, RoomError)]
