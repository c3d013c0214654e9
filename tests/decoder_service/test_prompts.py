"""What the decoder is told, and what it cannot be told."""

from __future__ import annotations

import inspect
import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from decoder_service import prompts
from decoder_service.prompts import DECODER_ROLE, Example, conversation, merge_role, plain_text, read_examples
from shared.errors import InvalidRequest
from shared.wire import DecodeRequest

TASK = {
    "task": "Write a function to find the similar elements from two tuple lists.",
    "entry_point": "similar_elements",
    "signature": "def similar_elements(test_tup1, test_tup2):",
    "tests": ["assert similar_elements((3, 4, 5, 6),(5, 7, 4, 10)) == (4, 5)"],
    "reference": "return tuple(set(test_tup1) & set(test_tup2))",
}


def test_the_only_inputs_of_a_prompt_are_a_message_and_examples() -> None:
    assert list(inspect.signature(conversation).parameters) == ["message", "examples"]
    assert set(Example.model_fields) == {"message", "program"}
    assert set(DecodeRequest.model_fields) == {"messages", "max_new_tokens", "temperature", "top_p", "seed"}


def test_nothing_of_a_task_is_in_the_prompt_unless_the_message_says_it() -> None:
    message = "f x & y"
    text = json.dumps(
        conversation(message, [Example(message="dbl x", program="def dbl(x):\n    return 2 * x")])
    )
    for part in (TASK["task"], TASK["entry_point"], TASK["signature"], *TASK["tests"], TASK["reference"]):
        assert str(part) not in text
    assert "similar_elements" in json.dumps(conversation("similar_elements x & y"))


@pytest.mark.parametrize(
    "field", [*TASK, "prompt", "system", "context", "examples", "few_shot", "messages_meta"]
)
def test_a_request_that_brings_a_task_along_is_refused(field: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        DecodeRequest.model_validate({"messages": ["f x"], field: TASK.get(field, "x")})


def test_the_last_turn_is_the_message_and_nothing_else() -> None:
    for message in ("f x", "", "  spaces stay \n", "<|im_end|>", "{{ m.role }}"):
        turns = conversation(message)
        assert turns == [{"role": "system", "content": DECODER_ROLE}, {"role": "user", "content": message}]


def test_two_prompts_differ_in_their_messages_only() -> None:
    examples = [Example(message="a", program="b")]
    one, two = conversation("AAA", examples), conversation("BBB", examples)
    assert plain_text(one).replace("AAA", "BBB") == plain_text(two)
    assert one[:-1] == two[:-1]


def test_examples_are_earlier_turns() -> None:
    turns = conversation("m", [Example(message="dbl x", program="p")])
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant", "user"]
    assert merge_role(turns)[0] == {"role": "user", "content": f"{DECODER_ROLE}\n\ndbl x"}
    assert (
        plain_text(turns)
        == f"{DECODER_ROLE}\n\n# Message\ndbl x\n\n# Python\np\n\n# Message\nm\n\n# Python\n"
    )


def test_a_few_shot_file_is_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "few.jsonl"
    file.write_text(
        '{"message": "a", "program": "b"}\n\n{"message": "ü", "program": "d"}\n', encoding="utf-8"
    )
    assert read_examples(file) == (Example(message="a", program="b"), Example(message="ü", program="d"))
    assert read_examples(None) == ()


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"message": "a", "program": "b", "task": "c"}', "task: Extra inputs"),
        ('{"message": "a"}', "program: Field required"),
        ("not json", "Invalid JSON"),
    ],
)
def test_a_wrong_few_shot_line_is_named(tmp_path: Path, line: str, says: str) -> None:
    file = tmp_path / "few.jsonl"
    file.write_text('{"message": "a", "program": "b"}\n' + line + "\n")
    with pytest.raises(InvalidRequest, match=f"DECODER_FEW_SHOT=.*few.jsonl', line 2: {says}") as caught:
        read_examples(file)
    assert caught.value.field == "DECODER_FEW_SHOT"


def test_a_missing_few_shot_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"DECODER_FEW_SHOT=.*No such file"):
        read_examples(tmp_path / "none.jsonl")


def test_a_few_shot_file_may_hold_line_separators_inside_a_string(tmp_path: Path) -> None:
    file = tmp_path / "few.jsonl"
    example = Example(message="a\u2028b", program="x = '\x85'")
    file.write_bytes((example.model_dump_json() + "\r\n").encode() * 2)
    assert "\u2028" in file.read_text(encoding="utf-8")
    assert read_examples(file) == (example, example)


def test_a_few_shot_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    file = tmp_path / "few.jsonl"
    file.write_bytes('{"message": "é", "program": "x"}\n'.encode("latin-1"))
    with pytest.raises(InvalidRequest, match=r"DECODER_FEW_SHOT=.*not UTF-8") as caught:
        read_examples(file)
    assert caught.value.field == "DECODER_FEW_SHOT"


@pytest.mark.slow
def test_a_few_shot_file_that_is_not_utf8_ends_the_process_with_two_and_one_line(
    run_to_its_end: Callable[..., subprocess.CompletedProcess[str]], model_dir: Path, tmp_path: Path
) -> None:
    file = tmp_path / "few.jsonl"
    file.write_bytes(b"\xe9\n")
    ended = run_to_its_end(model=model_dir, few_shot=file)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert "DECODER_FEW_SHOT=" in ended.stderr.splitlines()[-1]


def test_the_template_hash_changes_with_everything_that_words_the_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hashes = {
        prompts.template_sha256((), None),
        prompts.template_sha256((), "{{ template }}"),
        prompts.template_sha256((Example(message="a", program="b"),), None),
        prompts.template_sha256((Example(message="a", program="c"),), None),
    }
    monkeypatch.setattr(prompts, "DECODER_ROLE", "another role")
    assert len(hashes | {prompts.template_sha256((), None)}) == 5
