"""Rows that join and leave a running batch: each as if it were alone."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from decoder_service.engines.engine import Decoding, Results, Row
from decoder_service.engines.hf import HfEngine, load_engine
from decoder_service.engines.prefix import Prefix, read_prefix, shared_tokens
from decoder_service.engines.slots import can_hold
from decoder_service.settings import DecoderSettings
from shared.errors import RoomError
from shared.wire import Program

WORDS = ["f", "(", "x", ")", "sum", "filter", "> 0", "words", "\n", "é", "<|im_end|>", "def total(numbers):"]
KINDS = [Decoding(30), Decoding(7), Decoding(30, 1.0), Decoding(20, 1.3, 0.8), Decoding(1)]


@dataclass(eq=False)
class Visit:
    """One row of the test, when it joins and when nobody waits for it any more."""

    row: Row
    decoding: Decoding
    at: int
    leaves: int | None = None
    asked: int = 0
    result: Program | RoomError | None = None
    ended: bool = False

    @property
    def tokens(self) -> int:
        return len(self.row.token_ids) + self.decoding.max_new_tokens

    @property
    def wanted(self) -> bool:
        self.asked += 1
        return self.leaves is None or self.asked < self.leaves


class Timetable:
    """Hands rows out at their turn; when nothing runs, the next one at once."""

    def __init__(self, visits: Sequence[Visit]) -> None:
        self.turn, self.coming, self.most = 0, sorted(visits, key=lambda visit: visit.at), 0

    def join(self, rows: int, longest: int, most_tokens: int | None = None) -> list[Visit]:
        self.turn += 1
        if not rows and self.coming:
            self.turn = max(self.turn, self.coming[0].at)
        taken = [visit for visit in self.coming if visit.at <= self.turn]
        self.coming = self.coming[len(taken) :]
        self.most = max(self.most, rows + len(taken))
        return taken

    def batch(self) -> list[Visit]:
        raise AssertionError("rows join one by one")

    def done(self, results: Results) -> None:
        for visit, result in results:
            assert isinstance(visit, Visit) and not visit.ended
            visit.result, visit.ended = result, True


def visits_of(engine: HfEngine, count: int, chance: random.Random) -> list[Visit]:
    messages = [" ".join(chance.choices(WORDS, k=chance.randint(0, 60))) + str(n) for n in range(count)]
    return [
        Visit(Row(message, ids, chance.choice([0, 7])), chance.choice(KINDS), chance.randint(0, 40),
              chance.choice([None, None, None, 3]))
        for message, ids in zip(messages, engine.prepare(messages), strict=True)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def engine(any_model: Path) -> HfEngine:
    return load_engine(DecoderSettings(model=str(any_model)))


def worked(engine: HfEngine, visits: Sequence[Visit]) -> Timetable:
    timetable = Timetable(visits)
    engine.work(timetable)
    assert all(visit.ended for visit in visits)
    return timetable


def test_whenever_a_row_joins_and_whoever_leaves_its_program_is_its_own(engine: HfEngine) -> None:
    visits = visits_of(engine, 60, random.Random(1))
    timetable = worked(engine, visits)
    assert timetable.most > 12
    for visit in visits:
        alone = engine.decode([visit.row], visit.decoding)[0]
        assert alone is not None
        if visit.leaves is None or alone.tokens < visit.leaves:
            assert visit.result == alone
        else:
            assert visit.result in (None, alone)
    assert {visit.result is None for visit in visits} == {True, False}


def test_what_all_prompts_begin_with_is_read_once(engine: HfEngine) -> None:
    prefix = engine._running._prefix  # type: ignore[union-attr]
    prompts = engine.prepare(["f x", "g " * 30, "a<|im_end|>b"])
    assert shared_tokens(prompts) >= len(prefix._token_ids) > 100
    assert prefix.left_to_read(prompts) == max(map(len, prompts)) - len(prefix._token_ids)
    read: list[int] = []
    hook = engine._model.register_forward_pre_hook(
        lambda module, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    try:
        engine.decode([Row("f x", prompts[0], 0)], Decoding(1))
    finally:
        hook.remove()
    assert read == [len(prompts[0]) - len(prefix._token_ids)]


def test_a_prompt_that_begins_otherwise_is_read_from_where_it_differs(engine: HfEngine) -> None:
    prompts = engine.prepare(["f x", "g y z"])
    other = (*prompts[0][:50], 17, *prompts[0][51:])
    assert Prefix(prompts[0][:200], ()).left_to_read([other]) == len(other) - 50
    assert Prefix(prompts[0], ()).left_to_read([prompts[0]]) == 1
    rows = [Row("other", other, 0), Row("g y z", prompts[1], 0), Row("cut", prompts[0][:20], 0)]
    together = engine.decode(rows, Decoding(20))
    running = engine._running
    assert running is not None
    kept, running._prefix = running._prefix, read_prefix(engine._model, [(1,), (2,)])
    try:
        assert engine.decode(rows, Decoding(20)) == together
        assert [engine.decode([row], Decoding(20))[0] for row in rows] == together
    finally:
        running._prefix = kept


def test_a_row_that_overflows_spoils_no_other(build_model: Callable[..., Path], tmp_path: Path) -> None:
    engine = load_engine(DecoderSettings(model=str(build_model(tmp_path, "qwen2"))))
    calm = visits_of(engine, 12, random.Random(2))
    bad = Visit(Row("bad", (*calm[0].row.token_ids, 300), 0), Decoding(5), 2)
    assert not any(300 in visit.row.token_ids for visit in calm)
    before = alone_and_then_overflowing(engine, calm)
    worked(engine, [*calm, bad])
    assert_unspoilt(engine, calm, before)


@pytest.mark.parametrize("joins", [2, 12])
def test_a_short_row_in_the_place_of_one_that_overflowed_is_its_own(
    joins: int, build_model: Callable[..., Path], tmp_path: Path
) -> None:
    engine = load_engine(DecoderSettings(model=str(build_model(tmp_path, "qwen2"))))
    # The first runs all the time, so what is masked behind a row's end is read up to the first one's.
    rows = [
        Row(text, ids, 0)
        for text, ids in zip("abc", engine.prepare(["f " * 80, "g " * 90, "h"]), strict=True)
    ]
    runs, spoilt, short = rows
    calm = [Visit(runs, Decoding(60), 0), Visit(short, Decoding(30), joins)]
    bad = Visit(Row("bad", (*spoilt.token_ids, 300), 0), Decoding(5), 0)
    before = alone_and_then_overflowing(engine, calm)
    # Moved into the place when the other ends, or joining there later.
    worked(engine, [calm[0], bad, calm[1]])
    assert_unspoilt(engine, calm, before)


def alone_and_then_overflowing(engine: HfEngine, calm: Sequence[Visit]) -> list[Program | RoomError | None]:
    """Return each visit's program alone; after that token 300 is NaN to all who read it."""
    before = [engine.decode([visit.row], visit.decoding)[0] for visit in calm]
    weight = engine._model.get_input_embeddings().weight
    with torch.no_grad():
        # Its row alone: the output's own column must stay finite, or every row would see it.
        engine._model.lm_head.weight = torch.nn.Parameter(weight.clone(), requires_grad=False)
        weight[300] = torch.nan
    for visit in calm:
        visit.leaves = None
    return before


def assert_unspoilt(
    engine: HfEngine, calm: Sequence[Visit], before: Sequence[Program | RoomError | None]
) -> None:
    for visit, alone in zip(calm, before, strict=True):
        # A program that says the spoilt token itself is spoilt from there on.
        assert isinstance(alone, Program)
        if engine._prompting._tokenizer.convert_ids_to_tokens(300) not in alone.text:
            assert visit.result == alone


def test_a_model_with_a_sliding_window_takes_one_batch_at_a_time(
    build_model: Callable[..., Path], tmp_path: Path
) -> None:
    folder = build_model(tmp_path, "qwen2")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    config = Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=1024, initializer_range=0.2,
        use_sliding_window=True, sliding_window=16, max_window_layers=1, bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    model: Any = Qwen2ForCausalLM(config)
    assert can_hold(model) == 0
    model.save_pretrained(folder)
    engine = load_engine(DecoderSettings(model=str(folder)))
    rows = [visit.row for visit in visits_of(engine, 12, random.Random(3))]
    together = engine.decode(rows, Decoding(20))
    assert [engine.decode([row], Decoding(20))[0] for row in rows] == together
