"""The game through a real sandbox: rewards, cuts, limits, and how many requests it takes."""

from __future__ import annotations

import pytest

from shared.clients import SandboxClient, run
from shared.errors import NoAnswer
from trainer.channels.program.environment import USUAL, Rollout, Rules, SequenceEnv, judge, prefixes
from trainer.channels.program.execution import Executor
from trainer.channels.program.program_code import length_bits
from trainer.tasks.sequences import generate

TARGET = (7, 7, 7, 7, 7, 10, 11, 12, 13, 14)
RIGHT = (
    "sequence_1 = repeat_num(5, 7)\nsequence_2 = range_func_up(10, 14)\n"
    "output = concatenate(sequence_1, sequence_2)\n"
)
FREE = "output = [7] * 5\nfor i in range(10, 15):\n    output.append(i)\n"


def played(executor: Executor, *texts: str, rules: Rules = USUAL) -> list[Rollout]:
    return run(judge([TARGET] * len(texts), list(texts), executor, rules))


def test_a_right_program_earns_the_constant_less_its_bits(executor: Executor) -> None:
    (rollout,) = played(executor, RIGHT)
    assert rollout.solved and rollout.steps == 3 and rollout.program == RIGHT
    assert rollout.reward == pytest.approx(100 - 0.1 * length_bits(RIGHT))
    (by_characters,) = played(executor, RIGHT, rules=Rules(measure="characters"))
    assert by_characters.reward == pytest.approx(100 - 0.1 * len(RIGHT))


def test_a_wrong_program_earns_nothing_and_a_long_right_one_no_less(executor: Executor) -> None:
    literal = f"output = set_list({list(TARGET)})"
    wrong, long, silent, broken = played(
        executor, RIGHT.replace("14", "15"), literal, "sequence_1 = repeat_num(5, 7)", "output = nothing",
        rules=Rules(length_penalty=10.0),
    )  # fmt: skip
    assert (wrong.outcome, wrong.reward) == ("wrong", 0) and wrong.beginning == 1.0
    assert long.solved and long.reward == 0
    assert (silent.outcome, silent.reward) == ("no_output", 0)
    assert (broken.outcome, broken.reward) == ("raised", 0)


def test_a_program_is_cut_where_it_first_succeeds_and_pays_for_no_more(executor: Executor) -> None:
    (rollout,) = played(executor, RIGHT + "output = set_list([1])\n")
    assert rollout.solved and rollout.steps == 3 and rollout.program == RIGHT


def test_free_python_is_accepted_and_charged_as_such(executor: Executor) -> None:
    (rollout,) = played(executor, FREE)
    assert rollout.solved and rollout.steps == 3
    assert rollout.bits == length_bits(FREE) > length_bits(RIGHT)


def test_fences_are_lines_that_add_nothing(executor: Executor) -> None:
    (rollout,) = played(executor, f"```python\n{RIGHT}```\nThis program repeats 7.")
    assert rollout.solved and rollout.steps == 4 and rollout.program == RIGHT


def test_the_last_allowed_line_is_executed_like_any_other(executor: Executor) -> None:
    won, late = played(executor, RIGHT, "\n" + RIGHT, rules=Rules(max_steps=3))
    assert won.solved and not late.solved and late.steps == 3


def test_a_program_that_never_ends_is_a_failure_and_not_an_outage(executor: Executor) -> None:
    (rollout,) = played(executor, "output = []\nwhile True: pass")
    assert rollout.outcome == "timeout" and rollout.reward == 0


def test_partial_credit_is_for_the_beginning_and_below_every_right_program(executor: Executor) -> None:
    rules = Rules(partial_credit=5.0, length_penalty=10.0)
    half, right = played(executor, "output = repeat_num(5, 7)", RIGHT, rules=rules)
    assert half.reward == pytest.approx(2.5) and right.reward == 5.0


def test_all_prefixes_of_a_hundred_programs_are_one_request(executor: Executor) -> None:
    pairs = generate("test", 100, 2, max_length=64)
    texts = [str(pair.program) + "output = reverse_list(output)\n" for pair in pairs]
    assert sum(len(prefixes(text)) for text in texts) == 200
    rollouts = run(judge([pair.sequence for pair in pairs], texts, executor, Rules()))
    assert all(rollout.solved for rollout in rollouts)
    assert all(r.program == str(p.program) for r, p in zip(rollouts, pairs, strict=True))
    assert executor.client.requests == 1
    run(judge([pair.sequence for pair in pairs], texts, executor, Rules()))
    assert executor.client.requests == 1 and executor.executed == 200


def test_batch_and_line_by_line_play_the_same_game(executor: Executor) -> None:
    for text in (RIGHT, FREE, RIGHT.replace("14", "15")):
        (whole,) = played(executor, text)
        env = SequenceEnv([TARGET], executor, Rules(max_steps=3))
        observation, _ = env.reset(seed=1)
        assert observation == {"sequence": TARGET, "program": ""}
        for line in text.splitlines():
            observation, reward, terminated, truncated, info = env.step(line)
        assert (reward, terminated) == (whole.reward, whole.solved)
        assert truncated is not terminated and info["steps"] == whole.steps
        assert observation["program"] == whole.program
        with pytest.raises(RuntimeError, match="reset"):
            env.step("output = [1]")


def test_a_seed_draws_the_same_sequences(executor: Executor) -> None:
    env = SequenceEnv([(i,) for i in range(50)], executor)
    drawn = [env.reset(seed=3)[0]["sequence"], *(env.reset()[0]["sequence"] for _ in range(5))]
    again = [env.reset(seed=3)[0]["sequence"], *(env.reset()[0]["sequence"] for _ in range(5))]
    assert drawn == again and len(set(drawn)) > 1
    assert env.reset(options={"sequence": [9, 9]})[0]["sequence"] == (9, 9)


def test_an_outage_is_an_error_and_no_reward() -> None:
    executor = Executor(SandboxClient("http://127.0.0.1:9", deadline_s=0.5))
    with pytest.raises(NoAnswer):
        played(executor, RIGHT)
