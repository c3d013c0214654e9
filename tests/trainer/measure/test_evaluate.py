"""Evaluation through real services: a decoder that echoes, a sandbox in its process jail, both over HTTP."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.clients import run
from shared.errors import Unavailable
from shared.ports import free_port
from trainer.channels.text.exchange import Exchange
from trainer.cli import main as cli
from trainer.config import dump_yaml, resolve
from trainer.config_text import TextConfig
from trainer.measure.evaluate import (
    add_arguments,
    command,
    evaluate_messages,
    fingerprint,
    measure,
    with_tasks,
)
from trainer.measure.evaluation_file import differences, file_name
from trainer.measure.folder import read_run
from trainer.measure.record import Message, Record, Sender
from trainer.supervise import services
from trainer.tasks.starter import starter_tasks

TASKS = starter_tasks("test", 12, 0)


@pytest.fixture(scope="module")
def located(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TextConfig]:
    """A config that points at both services, running as processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SANDBOX_JAIL", "process")
        with services(tmp_path_factory.mktemp("logs"), "echo", None, None) as (decoder, sandbox):
            yield TextConfig(decoder_url=decoder, sandbox_url=sandbox, lora=None)


def through(config: TextConfig, messages: list[Message]) -> list[Record]:
    async def ask() -> list[Record]:
        async with Exchange(config) as exchange:
            return await evaluate_messages(TASKS, messages, exchange)

    return run(ask())


def test_every_reference_sent_through_an_echo_passes(located: TextConfig) -> None:
    found = through(located, [Message(task.reference, 9) for task in TASKS])
    assert [r.outcome for r in found] == ["passed"] * 12
    assert [r.task_id for r in found] == [t.task_id for t in TASKS]
    assert all(r.program == t.reference for r, t in zip(found, TASKS, strict=True))
    assert {r.assurance for r in found} <= {"value", "rpc"}


def test_another_tasks_reference_fails(located: TextConfig) -> None:
    found = through(located, [Message(task.reference, 9) for task in (*TASKS[1:], TASKS[0])])
    assert not any(r.passed for r in found)


def test_a_refused_message_has_failed_even_if_its_program_would_pass(located: TextConfig) -> None:
    found = through(
        located, [Message(TASKS[0].reference, 9, "truncated"), *[Message(t.reference, 9) for t in TASKS[1:]]]
    )
    assert (found[0].outcome, found[0].program, found[0].passed) == ("truncated", "", False)
    assert all(r.passed for r in found[1:])


def test_a_message_short_of_a_task_is_refused(located: TextConfig) -> None:
    with pytest.raises(ValueError, match="11 messages for 12 tasks"):
        through(located, [Message("x", 1)] * 11)


def test_the_table_is_that_of_a_hand(located: TextConfig) -> None:
    senders = [
        Sender("student", "student", [Message(t.reference, 10) for t in TASKS]),
        Sender("untrained", "untrained", [Message("pass", 25) for _ in TASKS]),
    ]
    found = run(measure(TASKS, senders, {t.task_id: 40 for t in TASKS}, located))
    student, untrained = found.rows
    assert (student.passed, untrained.passed) == (12, 0)
    assert student.compression_vs_untrained is not None and student.compression_vs_untrained.value == 2.5
    assert student.compression_vs_reference is not None and student.compression_vs_reference.value == 4
    assert found.decoder["engine"] == "echo" and found.sandbox["jail"]


def test_an_outage_is_an_error_and_no_record(located: TextConfig) -> None:
    dead = located.model_copy(update={"decoder_url": [f"http://127.0.0.1:{free_port()}"], "deadline_s": 0.5})
    with pytest.raises(Unavailable):
        through(dead, [Message(t.reference, 1) for t in TASKS])


def test_the_fingerprint_tells_tasks_and_their_order_apart() -> None:
    assert fingerprint(TASKS) == fingerprint(list(TASKS)) != fingerprint(TASKS[::-1])


# --- the command -------------------------------------------------------------------------------------


@pytest.fixture
def trained(tiny_model: Path, tmp_path: Path) -> Path:
    """A run of a full model whose checkpoint is the model it started from."""
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints" / "best").symlink_to(tiny_model)
    config = TextConfig(
        student_model=str(tiny_model),
        generator_model="echo",
        lora=None,
        dataset="starter",
        max_completion_length=12,
        heldout_tasks=12,
        seed=5,
        device="cpu",
        deadline_s=60,
    )
    (folder / "config.yaml").write_text(dump_yaml(config))
    (folder / "summary.json").write_text('{"channel": "text", "seed": 5, "seconds": {"train": 3}}')
    return folder


def evaluate(*words: str | Path) -> int:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return command(parser.parse_args([str(word) for word in words]))


def urls(config: TextConfig) -> list[str]:
    assert config.decoder_url and config.sandbox_url
    return ["--decoder-url", config.decoder_url[0], "--sandbox-url", config.sandbox_url[0]]


def test_evaluate_writes_what_it_measured_and_prints_it(
    trained: Path, located: TextConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(trained, *urls(located)) == 0
    written = json.loads((trained / "evaluation.json").read_text())
    rows = {row["name"]: row for row in written["rows"]}
    assert rows["reference"]["pass_rate"]["value"] == 1
    assert rows["minified reference"]["pass_rate"]["value"] == 1
    assert rows["empty message"]["passed"] == rows["task text"]["passed"] == 0
    assert rows["student"]["tokens"] == rows["untrained student"]["tokens"]  # the same weights
    assert rows["student"]["compression_vs_untrained"]["value"] == 1
    assert [r["kind"] for r in written["rows"]][:2] == ["student", "untrained"]
    assert written["tasks"]["n"] == 12 and len(written["records"]["student"]) == 12
    assert written["language"]["student"]["n"] == 12
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["seconds"] == {"train": 3} and summary["heldout"]["n"] == 12
    assert summary["heldout"]["tokens_per_message"] == rows["student"]["tokens"]["value"]
    assert "minified reference" in capsys.readouterr().out


def test_where_services_are_is_told_by_variables_and_an_unfinished_run_is_not_made_to_look_finished(
    trained: Path, located: TextConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    (trained / "summary.json").unlink()
    for room, url in zip(("DECODER", "SANDBOX"), urls(located)[1::2], strict=True):
        monkeypatch.setenv(f"PSUEDOPTIMAL_{room}_URL", url)
    assert evaluate(trained, "--no-baselines", "--n", "12") == 0
    assert not (trained / "logs").exists()  # nothing was started
    assert not (trained / "summary.json").exists()


def test_another_evaluation_goes_to_a_file_that_says_what_is_different(
    trained: Path, located: TextConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    main, summary = trained / "evaluation.json", trained / "summary.json"
    main.write_text('{"rows": []}')
    before = [main.read_text(), summary.read_text()]
    words = ["--split", "validation", "--n", "3", "--no-baselines"]
    assert evaluate(trained, *words, *urls(located), "--unsaved", "decoder_url", "sandbox_url") == 0
    other = trained / "evaluation-validation-n3-no-baselines.json"
    assert str(other) in capsys.readouterr().err
    found = json.loads(other.read_text())
    assert (found["tasks"]["split"], found["tasks"]["n"]) == ("validation", 3)
    assert [main.read_text(), summary.read_text()] == before
    assert located.decoder_url and located.decoder_url[0] not in other.read_text()
    assert found["services"] == dict.fromkeys(("decoder", "sandbox"), "started for this evaluation")
    assert cli(["report", str(trained), "--evaluation", other.name]) == 0
    html = (trained / "report.html").read_text()
    assert "validation" in html and "started for this evaluation" in html
    assert cli(["report", str(trained), "--evaluation", "evaluation-x.json"]) == 2
    said = capsys.readouterr().err
    assert (
        "no such evaluation; there are: evaluation-validation-n3-no-baselines.json, evaluation.json" in said
    )


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ([], "evaluation.json"),
        (["--n", "12", "--json"], "evaluation.json"),
        (["--n", "5"], "evaluation-n5.json"),
        (["--checkpoint", "last"], "evaluation-checkpoint-last.json"),
        (["--tasks", "mbpp:some/own set.jsonl"], "evaluation-own-set.json"),
    ],
)
def test_only_flags_that_change_what_is_measured_change_the_name(
    trained: Path, words: list[str], name: str
) -> None:
    folder, own = read_run(trained), resolve(TextConfig, [trained / "config.yaml"], {})
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([str(trained), *words])
    assert file_name(differences(folder, own, with_tasks(own, args), args, {"name": "g"})) == name


def test_another_generator_than_the_runs_own_is_told_in_the_name(trained: Path) -> None:
    (trained / "services.json").write_text('{"decoder": {"name": "starter"}}')
    folder, own = read_run(trained), resolve(TextConfig, [trained / "config.yaml"], {})
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    args = parser.parse_args([str(trained)])
    assert differences(folder, own, own, args, {"name": "starter"}) == []
    assert file_name(differences(folder, own, own, args, {"name": "a/b"})) == "evaluation-decoder-a-b.json"


def test_several_runs_also_give_their_median_as_json(
    trained: Path, located: TextConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(trained, tmp_path / "other")
    assert evaluate(trained, other, "--json", "--no-baselines", "--n", "4", *urls(located)) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["median"]] == ["student", "untrained student"]
    assert found["median"][0]["n"] == 4


def test_runs_on_different_tasks_are_printed_without_a_median(
    trained: Path, located: TextConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = shutil.copytree(trained, tmp_path / "other")
    for folder, n in ((trained, 2), (other, 3)):
        text = (folder / "config.yaml").read_text().replace("heldout_tasks: 12", f"heldout_tasks: {n}")
        (folder / "config.yaml").write_text(text)
    assert evaluate(trained, other, "--no-baselines", *urls(located)) == 0
    said = capsys.readouterr()
    assert f"no median: {trained} and {other} were measured on different tasks" in said.err
    assert str(other) in said.out and "median" not in said.out


def test_an_outage_ends_with_one_and_writes_nothing(
    trained: Path, located: TextConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    impatient = (trained / "config.yaml").read_text().replace("deadline_s: 60.0", "deadline_s: 0.5")
    (trained / "config.yaml").write_text(impatient)
    before = (trained / "summary.json").read_text()
    assert evaluate(trained, "--decoder-url", f"http://127.0.0.1:{free_port()}", *urls(located)[2:]) == 1
    assert "nothing was written" in capsys.readouterr().err
    assert not (trained / "evaluation.json").exists() and (trained / "summary.json").read_text() == before


@pytest.mark.parametrize(
    ("words", "said"),
    [(["--checkpoint", "77"], "no checkpoint '77'"), (["--tasks", "mbpp:nowhere.jsonl"], "nowhere.jsonl")],
)
def test_a_wrong_request_ends_with_two_and_says_why(
    trained: Path, located: TextConfig, capsys: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert evaluate(trained, *words, *urls(located)) == 2
    assert said in capsys.readouterr().err


def test_a_folder_without_a_run_ends_with_two(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(tmp_path) == 2
    assert "is no run folder" in capsys.readouterr().err


@pytest.mark.slow
def test_without_urls_both_services_are_started(
    trained: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SANDBOX_JAIL", "process")
    assert evaluate(trained, "--n", "4", "--json") == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["runs"][str(trained)]}
    assert rows["reference"]["passed"] == 4
