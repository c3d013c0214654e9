"""The reward function against the real echo decoder and the real sandbox: the message is the program."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from trainer.channels.text.controllers import controller_of
from trainer.channels.text.exchange import Exchange, check_generator
from trainer.channels.text.reward_function import CompressionReward
from trainer.config import ConfigError
from trainer.config_text import TextConfig
from trainer.tasks.task import Task

DOUBLE = Task(
    "t/double", "Double it.", "def f(x):", "f", "def f(x):\n    return x + x\n", ("assert f(2) == 4",)
)
TRIPLE = Task(
    "t/triple", "Triple it.", "def f(x):", "f", "def f(x):\n    return 3 * x\n", ("assert f(2) == 6",)
)
PASSES, FAILS = "def f(x): return 2*x", "def f(x): return x"


@pytest.fixture(scope="module")
def tokenizer(student_folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(student_folder)


def make(
    rooms: Any, tokenizer: Any, tasks: Sequence[Task] = (DOUBLE, TRIPLE), **settings: Any
) -> CompressionReward:
    config = TextConfig(
        decoder_url=[rooms.decoder.url], sandbox_url=[rooms.sandbox.url], **{"deadline_s": 60.0, **settings}
    )
    ends = frozenset({tokenizer.eos_token_id})
    return CompressionReward(config, tasks, tokenizer, ends, controller_of(config))


def call(
    reward: CompressionReward, messages: list[str], task: list[int], ids: list[list[int]] | None = None
) -> list[float | None]:
    """Call it as TRL does: conversational completions, token ids up to and including the end token."""
    end = reward.tokenizer.eos_token_id
    ids = ids or [[*reward.tokenizer.encode(m, add_special_tokens=False), end] for m in messages]
    completions = [[{"role": "assistant", "content": message}] for message in messages]

    async def once() -> list[float | None]:
        try:
            return await reward([None] * len(messages), completions, ids, task=task, trainer_state=None)
        finally:
            await reward.aclose()

    return asyncio.run(once())


def outcomes(reward: CompressionReward) -> list[str]:
    return [episode.outcome for batch in reward.take() for episode in batch.episodes]


def test_a_passing_message_earns_ten_times_the_compression_and_a_failing_one_minus_one(
    rooms: Any, tokenizer: Any
) -> None:
    reward = make(rooms, tokenizer)
    sent, reference = reward.count(PASSES), reward.count(DOUBLE.reference)
    assert call(reward, [PASSES, FAILS, "no python ("], [0, 0, 0]) == [
        pytest.approx(10 * reference / sent),
        -1,
        -1,
    ]
    assert outcomes(reward)[:2] == ["passed", "failed"]


def test_an_anchor_earns_only_where_the_others_of_its_group_fail(rooms: Any, tokenizer: Any) -> None:
    reward = make(rooms, tokenizer, reward="relative", multiplier=1.5)
    reward.anchors = frozenset({2, 5})
    long = "def f(x): return 2*x if x else 0"
    found = call(reward, [PASSES, FAILS, long, FAILS, "no", long.replace("2*", "3*")], [0, 0, 0, 1, 1, 1])
    assert found == [1.5, -1.5, 0.0, -1.5, -1.5, 1.5]
    assert reward.idle == [False, False, True, False, False, False]
    [batch] = reward.take()
    assert [episode.anchor for episode in batch.episodes] == [False, False, True] * 2


def test_the_same_message_is_judged_by_each_tasks_own_tests(rooms: Any, tokenizer: Any) -> None:
    reward = make(rooms, tokenizer)
    call(reward, [PASSES, PASSES, PASSES], [0, 1, 0])
    batch = reward.taken[0]
    assert [episode.outcome for episode in batch.episodes] == ["passed", "failed", "passed"]
    assert batch.unique == 2


@pytest.mark.parametrize(
    "message", ["", "   \n\t", "\u200b\u200d\ufeff", "\u202e\u2066", "\x00\x07\x1b", "\u2800\u3164"]
)
def test_a_message_that_shows_nothing_fails_unsent(rooms: Any, tokenizer: Any, message: str) -> None:
    # The generator would answer from its prior, and a trivial task would pass without a message.
    reward = make(rooms, tokenizer, [DOUBLE._replace(tests=("assert True",))])
    assert call(reward, [message], [0]) == [-1.0]
    assert outcomes(reward) == ["invisible"]
    assert reward._exchange is None


def test_a_message_of_special_tokens_only_is_invisible_and_pays_for_them(rooms: Any, tokenizer: Any) -> None:
    reward = make(rooms, tokenizer)
    special = tokenizer.convert_tokens_to_ids("<|user|>")
    assert call(reward, [""], [0], [[special, special, special, tokenizer.eos_token_id]]) == [-1.0]
    episode = reward.taken[0].episodes[0]
    assert (episode.outcome, episode.tokens) == ("invisible", 3)


def test_special_tokens_beside_text_are_paid_for(rooms: Any, tokenizer: Any) -> None:
    reward = make(rooms, tokenizer)
    plain = tokenizer.encode(PASSES, add_special_tokens=False)
    hidden = [*plain, tokenizer.convert_tokens_to_ids("<|user|>"), tokenizer.eos_token_id]
    call(reward, [PASSES], [0], [hidden])
    assert reward.taken[0].episodes[0].tokens == len(plain) + 1


def test_an_odd_split_of_the_text_is_not_cheaper_than_the_text(rooms: Any, tokenizer: Any) -> None:
    reward = make(rooms, tokenizer)
    call(reward, [PASSES], [0], [[5, tokenizer.eos_token_id]])
    assert reward.taken[0].episodes[0].tokens == reward.count(PASSES)


def test_a_one_token_message_is_sent_and_judged(rooms: Any, tokenizer: Any) -> None:
    reward = make(rooms, tokenizer)
    assert call(reward, ["x"], [0]) == [-1.0]
    assert outcomes(reward) == ["raised"]


def test_a_truncated_message_fails_even_if_its_text_would_pass(rooms: Any, tokenizer: Any) -> None:
    reward = make(rooms, tokenizer)
    ids = tokenizer.encode(PASSES, add_special_tokens=False)
    assert call(reward, [PASSES], [0], [ids]) == [-1.0]
    assert outcomes(reward) == ["truncated"]


def test_an_outage_gives_none_for_the_whole_batch_and_raises_nothing(own_rooms: Any, tokenizer: Any) -> None:
    for service in (own_rooms.sandbox, own_rooms.decoder):
        service.kill()
        reward = make(own_rooms, tokenizer, deadline_s=0.5, max_outages=3)
        assert call(reward, [PASSES, "", FAILS], [0, 0, 1]) == [None, None, None]
        assert "3 times in 0.5 s each" in reward.missing and service.room in reward.missing
        assert reward.taken == []


def test_a_service_that_comes_back_in_time_costs_nothing_but_time(own_rooms: Any, tokenizer: Any) -> None:
    own_rooms.sandbox.kill()
    # Many tries in the time that the sandbox needs to start.
    reward = make(own_rooms, tokenizer, deadline_s=0.5, max_outages=200)

    async def both() -> list[float | None]:
        ids = [[*tokenizer.encode(PASSES), tokenizer.eos_token_id]]
        waiting = asyncio.ensure_future(reward([None], [PASSES], ids, task=[0]))
        await asyncio.sleep(1.0)
        own_rooms.sandbox.start()
        found = await waiting
        await reward.aclose()
        return found

    assert asyncio.run(both())[0] > 0  # type: ignore[operator]
    assert outcomes(reward) == ["passed"]


def test_an_outage_is_not_waited_for_once_the_run_is_to_stop(own_rooms: Any, tokenizer: Any) -> None:
    own_rooms.decoder.kill()
    reward = make(own_rooms, tokenizer, deadline_s=120.0)
    reward.stopping.set()
    started = time.monotonic()
    assert call(reward, [PASSES], [0]) == [None]
    assert time.monotonic() - started < 30


def test_a_task_the_judge_refuses_is_named_and_no_reward_is_made_of_it(rooms: Any, tokenizer: Any) -> None:
    for broken in (
        DOUBLE._replace(task_id="t/broken", tests=("assert f(2",)),
        DOUBLE._replace(task_id="t/broken", tests=()),
    ):
        reward = make(rooms, tokenizer, [DOUBLE, broken])
        assert call(reward, [PASSES, PASSES], [0, 1]) == [None, None]
        assert "task t/broken" in reward.missing and "t/double" not in reward.missing


def test_a_message_the_decoder_refuses_costs_only_itself(starter_rooms: Any, tokenizer: Any) -> None:
    long = ["a" + "\u0301" * 5000, "b" + "\u0301" * 5000]
    reward = make(starter_rooms, tokenizer)
    alone = call(reward, [PASSES, FAILS, "def f(x): return x + x"], [0, 0, 0])
    expected = outcomes(reward)
    assert "refused" not in expected
    mixed = call(reward, [long[0], PASSES, FAILS, long[1], "def f(x): return x + x"], [0] * 5)
    assert (mixed, outcomes(reward)) == (
        [-1, *alone[:2], -1, alone[2]],
        ["refused", *expected[:2], "refused", expected[2]],
    )
    assert call(reward, long, [0, 0]) == [-1, -1]
    assert reward.missing == ""
    # What no message can help is not the student's fault.
    reward = make(starter_rooms, tokenizer, max_program_tokens=8192)
    assert call(reward, [PASSES, long[0]], [0, 0]) == [None, None]
    assert "max_new_tokens=8192" in reward.missing


def test_a_missing_token_ends_the_run_and_not_the_reward(tmp_path: Path, tokenizer: Any) -> None:
    from trainer.supervise import Service

    guarded = Service("decoder", tmp_path / "log", {"DECODER_ENGINE": "echo", "DECODER_TOKEN": "secret"})
    guarded.start()
    try:
        guarded.wait_ready(60)
        rooms = type("Rooms", (), {"decoder": guarded, "sandbox": guarded})
        reward = make(rooms, tokenizer)
        assert call(reward, [PASSES], [0]) == [None]
        assert "token" in reward.missing
        (tmp_path / "token").write_text("secret\n")
        reward = make(rooms, tokenizer, decoder_token_file=tmp_path / "token")

        async def model() -> str:
            async with Exchange(reward.config) as exchange:
                return (await exchange.decoder.model()).name

        assert asyncio.run(model()) == "echo"
    finally:
        guarded.stop()


def test_another_generator_than_the_run_asks_for_is_refused(rooms: Any) -> None:
    async def card() -> Any:
        async with Exchange(
            TextConfig(decoder_url=[rooms.decoder.url], sandbox_url=[rooms.sandbox.url])
        ) as exchange:
            return (await exchange.identities()).decoder

    found = asyncio.run(card())
    check_generator("echo", found)
    check_generator(None, found)
    with pytest.raises(ConfigError, match="DECODER_MODEL=Qwen/X"):
        check_generator("Qwen/X", found)
