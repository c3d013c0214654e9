"""The command line: what it says, where it says it, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from shared.ports import free_port
from trainer.cli import CHANNELS, VERBS, main

LIGHT = [
    "trainer.cli", "trainer.cli_runs", "trainer.cli_train", "trainer.cli_tasks", "trainer.cli_services",
    "trainer.cli_demo", "trainer.cli_verbs", "trainer.cli_program", "trainer.cli_program_train",
    "trainer.cli_program_demo", "trainer.doctor", "trainer.measure.evaluate", "trainer.measure.report",
]  # fmt: skip


def test_no_verb_imports_torch_before_it_is_needed() -> None:
    heavy = "[m for m in ('torch', 'transformers', 'trl') if m in sys.modules]"
    code = f"import sys, {', '.join(LIGHT)}; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PARTS = ["latent send", "latent decode", *(f"serve {room}" for room in ("decoder", "sandbox", "playground"))]
PARTS += [f"runpod {action}" for action in ("plan", "up", "status", "logs", "down")]


@pytest.mark.parametrize("verb", [*VERBS, *map(" ".join, CHANNELS), *PARTS])
def test_every_help_ends_with_an_example(verb: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*verb.split(), "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert "example" in said and f"psuedoptimal {verb}" in said.rpartition("example")[2]


def test_help_lists_every_verb_and_no_arguments_are_a_wrong_request(capsys: Any) -> None:
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(verb in said for verb in VERBS)
    assert main([]) == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["trane"], "no such verb"),
        (["train"], "{text,program,latent}"),
        (["train", "txt"], "'txt': take text, program or latent, right behind the verb"),
        (
            ["train", "--seed", "1", "program"],
            "'program': take text, program or latent, right behind the verb",
        ),
        (["doctor", "extra"], "extra: one argument too many, or one that belongs in front of the flags"),
        (["train", "text", "--learning_rat", "1"], "did you mean --learning_rate?"),
        (["train", "text", "--learning-rate", "fast"], "learning_rate='fast'"),
        (["train", "text", "--config", "nowhere"], "no such file"),
        (["train", "text", "--resume", "nowhere"], "no run here"),
        (["train", "text", "--config", "starter-text.yaml", "--resume", "nowhere"], "nowhere: no run here"),
        (
            ["train", "text", "--name", "x/y"],
            "name='x/y': it does not fit: run folder: letters, digits, dots",
        ),
        (["train", "text", "--no-lora", "--lora-r", "4"], "--no-lora and --lora-r exclude one another"),
        (["train", "text", "--lora-r", "4", "--no-lora"], "--no-lora and --lora-r exclude one another"),
        (
            ["train", "text", "--config", "starter-latent.yaml"],
            "no such setting; it is one of `train latent`, not of `train text`",
        ),
        (["report", "no/where"], "no/where: no such folder; `ls no` shows what there is"),
        (["judge", "no/where.py", "--test", "assert f(1)"], "no/where.py: no such file\n"),
        (["tasks", "--dataset", "nowhere.jsonl"], "dataset="),
        (["tasks", "-n", "0"], "argument -n: '0' is no count; give a whole number from 1"),
        (["demo", "--seeds", "1,x"], "--seeds"),
        (["serve", "sandbox", "--model", "x"], "--model is for the decoder"),
    ],
)
def test_a_wrong_request_is_one_line_and_code_2(argv: list[str], said: str, capsys: Any) -> None:
    try:
        code = main(argv)
    except SystemExit as ended:
        code = int(ended.code or 0)
    err = capsys.readouterr().err
    assert code == 2 and said in err and "Traceback" not in err


def test_print_config_prints_a_config_and_starts_nothing(capsys: Any, tmp_path: Path) -> None:
    argv = ["train", "text", "--runs", str(tmp_path), "--debug", "--num-generations", "4", "--print-config"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "max_steps: 4\n" in said and "num_generations: 4\n" in said
    assert not list(tmp_path.iterdir())


def test_the_config_of_a_debug_run_is_read_back_as_it_is(capsys: Any, tmp_path: Path) -> None:
    small, saved = tmp_path / "small.yaml", tmp_path / "config.yaml"
    small.write_text("debug: true\nmax_steps: 9\ntrain_tasks: 9\ndataset: starter\n", encoding="utf-8")
    assert main(["train", "text", "--config", str(small), "--max-steps", "7", "--print-config"]) == 0
    saved.write_text(capsys.readouterr().out, encoding="utf-8")
    found = saved.read_text(encoding="utf-8")
    assert "max_steps: 7\n" in found and "train_tasks: 16\n" in found and "debug: false\n" in found
    assert main(["train", "text", "--config", str(saved), "--print-config"]) == 0
    assert capsys.readouterr().out == found


def test_tasks_are_printed_as_text_and_as_json(capsys: Any) -> None:
    assert main(["tasks", "-n", "2", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 2 and {"task_id", "tests", "reference"} <= set(rows[0])
    assert main(["tasks", "-n", "1"]) == 0
    assert rows[0]["signature"] in capsys.readouterr().out


def test_a_split_without_tasks_is_said_before_the_first_line(tmp_path: Path, capsys: Any) -> None:
    row = {"task_id": "1", "text": "Double.", "reference": "def f(n):\n    return 2 * n", "split": "train"}
    file = tmp_path / "own.jsonl"
    file.write_text(json.dumps({**row, "tests": ["assert f(1) == 2"]}) + "\n")
    assert main(["tasks", "--dataset", str(file), "--split", "train", "--json"]) == 0
    assert capsys.readouterr().out
    assert main(["tasks", "--dataset", str(file), "--split", "all", "--json"]) == 2
    said = capsys.readouterr()
    assert "no tasks in its validation split" in said.err and not said.out


def test_a_folder_is_no_data_set_and_its_files_are_named(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "own.jsonl").touch()
    assert main(["tasks", "--dataset", str(tmp_path)]) == 2
    assert "is a folder; name a file in it (own.jsonl)" in capsys.readouterr().err


def test_decode_and_judge_ask_the_services(rooms: Any, tmp_path: Path, capsys: Any) -> None:
    assert main(["decode", "def f(n): return n * 2", "--decoder-url", rooms.decoder.url]) == 0
    program = tmp_path / "p.py"
    program.write_text(capsys.readouterr().out, encoding="utf-8")
    judge = ["judge", str(program), "--sandbox-url", rooms.sandbox.url]
    assert main([*judge, "--test", "assert f(2) == 4"]) == 0
    assert "passed" in capsys.readouterr().out
    assert main([*judge, "--test", "assert f(2) == 5", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["outcome"] == "failed"
    assert main(judge) == 2


def test_doctor_needs_only_the_services_it_is_asked_about(rooms: Any, capsys: Any) -> None:
    urls = ["--decoder-url", rooms.decoder.url, "--sandbox-url", rooms.sandbox.url]
    assert main(["doctor", *urls]) == 0
    said = capsys.readouterr().out
    assert "echo" in said and "process" in said and "torch" in said
    assert main(["doctor", "--json", "--decoder-url", "http://127.0.0.1:9"]) == 1
    found = {row["what"]: row["state"] for row in json.loads(capsys.readouterr().out)}
    assert found["decoder"] == "missing"


def test_serve_becomes_the_service() -> None:
    from trainer.supervise import is_ready

    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "trainer.cli", "serve", "decoder", "--model", "echo", "--port", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        end = time.monotonic() + 60
        while not is_ready(f"http://127.0.0.1:{port}"):
            assert process.poll() is None and time.monotonic() < end
            time.sleep(0.1)
    finally:
        process.terminate()
        assert process.wait(30) == 0
