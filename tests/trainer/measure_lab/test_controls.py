"""The controls through real services that echo: a message is the program, so every count is known."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import main
from trainer.config import dump_yaml
from trainer.config_text import STARTER_STUDENT, TextConfig
from trainer.measure import controls, controls_phrasebook
from trainer.measure.controls_decoders import Other, generator_folder, others, round_weights
from trainer.measure.controls_run import as_text
from trainer.measure.evaluation_file import put_aside
from trainer.measure.rates_read import Words
from trainer.measure.record import Message, Record
from trainer.measure.tables import finite
from trainer.tasks.starter import starter_tasks

N = 10
TASKS = starter_tasks("test", N, 0)
TRAIN = starter_tasks("train", 80, 0)
WORDS = Words(STARTER_STUDENT / "tokenizer.json")


def as_messages(tasks: Any) -> list[Message]:
    return [Message(task.reference, len(WORDS.ids(task.reference))) for task in tasks]


@pytest.fixture(scope="module")
def subject(rooms: Any) -> controls.Subject:
    """A student that sends the reference, to a decoder that repeats it."""
    config = TextConfig(
        decoder_url=[rooms.decoder.url], sandbox_url=[rooms.sandbox.url], lora=None, generator_model="echo"
    )
    return controls.Subject(None, WORDS, TASKS, as_messages(TASKS), as_messages(TRAIN[:4]), config)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [Record(t.task_id, t.family, t.reference, 1, "", t.reference, "passed", "value") for t in TASKS]


def test_only_the_right_message_passes(subject: controls.Subject) -> None:
    found = controls.senders(subject)
    rates = {row["name"]: row["pass_rate"]["value"] for row in found["rows"]}
    assert rates.pop("student") == 1 and found["clean"]
    assert set(rates) == {
        "empty message", "student, shuffled", "foreign message", "random tokens", "function name only",
    }  # fmt: skip
    assert set(rates.values()) == {0}
    assert len(found["records"]["student"]) == N


def test_a_control_that_passes_is_told(subject: controls.Subject) -> None:
    alike = controls.Subject(None, WORDS, [TASKS[0]] * 2, as_messages([TASKS[0]] * 2), as_messages(TASKS[:1]), subject.config)  # type: ignore[arg-type]  # fmt: skip # noqa: E501
    alike.tasks[1] = TASKS[0]._replace(task_id="again")
    found = controls.senders(alike)
    assert not found["clean"]  # both tasks are the same one: shuffled and foreign messages pass


def test_beginnings_of_a_program_do_not_pass(subject: controls.Subject) -> None:
    steps = controls.prefixes(subject)["steps"]
    assert [s["share"] for s in steps] == [i / 10 for i in range(1, 10)]
    assert all(s["pass_rate"]["value"] == 0 for s in steps[:5])
    assert [r["tokens"] for r in steps[4]["records"]] == [
        int(len(WORDS.ids(t.reference)) * 0.5 + 0.5) for t in TASKS
    ]


def test_hidden_tests_tell_a_program_that_only_knows_the_seen_ones(
    subject: controls.Subject, records: list[Record]
) -> None:
    assert {row["pass_rate"]["value"] for row in controls.tests(subject, records)} == {1}
    task = TASKS[0]
    seen = ", ".join(
        f"repr({test.partition('(')[2].rpartition(') ==')[0]}): {test.rpartition('== ')[2]}"
        for test in task.tests
    )
    memorised = f"def {task.entry_point}(x):\n    return {{{seen}}}[repr(x)]\n"
    cheat = [records[0]._replace(program=memorised)]
    alone = controls.Subject(None, WORDS, [task], [], [], subject.config)  # type: ignore[arg-type]
    found = {row["name"]: row["pass_rate"]["value"] for row in controls.tests(alone, cheat)}
    assert found["the other half of the tests, of those that pass the first half"] == 1
    assert found["new tests, of those that pass all"] == 0


def test_operators_matter_and_their_spaces_do_not(subject: controls.Subject, records: list[Record]) -> None:
    found = controls.interventions(subject, records, most=2)
    kinds = {k["kind"]: k["broken"]["value"] for k in found["kinds"]}
    assert found["messages"] == 2 and kinds["permutation"] == 1
    assert 0.5 < kinds["deletion"] <= 1 and 0.5 < found["needed"] <= 1
    tokens = {s["text"]: s["deleted"]["value"] for s in found["symbols"]}
    assert tokens["def"] == tokens["return"] == 1


def test_without_a_message_that_passes_there_is_nothing_to_take_out(
    subject: controls.Subject, records: list[Record]
) -> None:
    failed = [record._replace(outcome="failed") for record in records]
    found = finite({
        "run": "r", "checkpoint": "best", "tasks": {"n": N, "split": "test"},
        "controls": {"rows": [], "clean": True, "level": controls.LEVEL},
        "interventions": controls.interventions(subject, failed, most=2),
        "tests": controls.tests(subject, failed),
    })  # fmt: skip
    assert "a message fails without – of its tokens" in as_text(found)


def test_a_phrasebook_of_code_is_code_and_deleting_breaks_it(
    subject: controls.Subject, records: list[Record]
) -> None:
    found = controls_phrasebook.make(subject, TRAIN, as_messages(TRAIN), records, wanted=1)
    book = {e["symbol"]: e for e in found["entries"]}
    assert book["sorted"]["piece"] == "sorted(…)" and book["+="]["piece"].startswith("+=")
    assert book["sorted"]["examples"][0]["message"] == book["sorted"]["examples"][0]["program"]
    assert found["aligned_bits"] > found["aligned_bits_shuffled"] + 0.3
    broken = [e["breaks"]["value"] for e in book.values() if e["cases"]]
    assert broken and sum(broken) / len(broken) > 0.8
    assert "compositional" in found["verdict"] and json.dumps(found)


def test_messages_are_taken_to_another_decoder(
    subject: controls.Subject, records: list[Record], tmp_path: Path
) -> None:
    found = controls.transfer(subject, records, [Other("echo again", {"DECODER_ENGINE": "echo"})], tmp_path)
    assert [row["decoder"] for row in found] == ["own generator, temperature 0.7", "echo again"]
    for row in found:
        assert row["student"]["value"] == row["reference"]["value"] == row["kept"]["value"] == 1
        assert row["shuffled"]["value"] == 0
    assert list(tmp_path.glob("decoder-echo-again.log"))


def test_rounded_weights_are_on_their_grid_and_near(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    own = generator_folder(TextConfig(generator_model="starter", lora=None))
    assert own is not None
    before = load_file(str(own / "model.safetensors"))
    for bits in (8, 4):
        after = load_file(str(round_weights(own, tmp_path / str(bits), bits) / "model.safetensors"))
        name = "model.layers.0.mlp.up_proj.weight"
        scale = before[name].abs().amax(dim=1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((after[name] - before[name]).abs() <= scale / 2 + 1e-6).all()
        assert all(row.unique().numel() <= 2**bits - 1 for row in after[name])
        assert (after["model.norm.weight"] == before["model.norm.weight"]).all()
    with pytest.raises(ValueError, match="bits=1"):
        round_weights(own, tmp_path / "x", 1)
    with pytest.raises(ValueError, match="no config"):
        others(TextConfig(generator_model="echo", lora=None), [tmp_path], tmp_path / "work")


@pytest.fixture
def untrained_run(tmp_path: Path) -> Path:
    """A run whose student is the starter's as it began, and whose services are gone."""
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "checkpoints" / "best").symlink_to(STARTER_STUDENT)
    config = TextConfig(
        student_model="starter", generator_model="echo", lora=None, dataset="starter", heldout_tasks=4,
        max_completion_length=64, device="cpu", decoder_url=["http://127.0.0.1:9"],
        sandbox_url=["http://127.0.0.1:9"],
    )  # fmt: skip
    (run / "config.yaml").write_text(dump_yaml(config))
    return run


def test_variables_say_where_the_services_are_and_nothing_else(
    rooms: Any, untrained_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("PSUEDOPTIMAL_DECODER_URL", rooms.decoder.url)
    monkeypatch.setenv("PSUEDOPTIMAL_SANDBOX_URL", rooms.sandbox.url)
    monkeypatch.setenv("PSUEDOPTIMAL_HELDOUT_TASKS", "2")
    words = ["controls", str(untrained_run), "--phrases", "2", "--only", "tests"]
    assert main(words) == 0
    assert json.loads((untrained_run / "controls.json").read_text())["tasks"]["n"] == 4
    assert not (untrained_run / "logs").exists()  # nothing was started
    assert main([*words, "--decoder-url", "notaurl"]) == 2
    assert "'notaurl' is not the URL of a service; use e.g. http" in capsys.readouterr().err


def test_the_verb_examines_a_run_and_writes_its_file(
    rooms: Any, untrained_run: Path, tmp_path: Path, capsys: Any
) -> None:
    run = untrained_run
    argv = ["controls", str(run), *rooms.flags, "--phrases", "6", "--only", "names", "--only", "phrasebook"]
    assert main(argv) == 0
    said = capsys.readouterr().out
    assert "every control passes at most 5%" in said and "not compositional" in said
    found = json.loads((run / "controls.json").read_text())
    assert found["controls"]["rows"][0]["pass_rate"]["value"] > 0.7  # an untrained student sends the code
    assert {row["name"]: row["pass_rate"]["value"] > 0.7 for row in found["names"]}["another task's name"]
    assert "transfer" not in found
    again = ["controls", str(run), *rooms.flags, "--phrases", "2", "--only", "tests"]
    assert main(again) == 0
    merged = json.loads((run / "controls.json").read_text())
    assert merged["names"] == found["names"] and merged["tests"]
    assert main([*again, "--n", "2"]) == 0  # of other tasks: the run's own stay as they are
    assert json.loads((run / "controls.json").read_text()) == merged
    assert json.loads((run / "controls-n2.json").read_text())["tasks"]["n"] == 2
    assert main(["controls", str(run), "--n", "0"]) == 2
    assert main(["controls", str(tmp_path / "none")]) == 2


def test_controls_of_older_weights_are_not_mixed_with_newer_ones(rooms: Any, untrained_run: Path) -> None:
    best, file = untrained_run / "checkpoints" / "best", untrained_run / "controls.json"
    best.unlink()
    shutil.copytree(STARTER_STUDENT, best)

    def examined(step: int, part: str) -> dict[str, Any]:
        (best / "best.json").write_text(json.dumps({"step": step}))
        argv = ["controls", str(untrained_run), *rooms.flags, "--phrases", "2", "--n", "4", "--only", part]
        assert main(argv) == 0
        return dict(json.loads(file.read_text()))

    assert examined(40, "names")["checkpoint"] == "best (step 40)"
    newer = examined(80, "tests")
    assert newer["checkpoint"] == "best (step 80)" and "names" not in newer
    file.write_text(json.dumps({**newer, "checkpoint": "best"}))  # as an older version named it
    assert {"names", "tests"} <= examined(80, "names").keys()
    file.write_text(json.dumps({**newer, "checkpoint": "best"}))
    (untrained_run / "evaluation.json").write_text('{"checkpoint": "best (step 40)"}')
    assert "tests" not in examined(80, "names")


@pytest.mark.parametrize(
    ("examined", "evaluation", "left"),
    [
        ("best (step 40)", "best (step 40)", {"controls-best-step-40.json", "evaluation-best-step-40.json"}),
        ("best", "best (step 40)", {"controls-best-step-40.json", "evaluation-best-step-40.json"}),
        ("best (step 80)", "best (step 40)", {"controls.json", "evaluation-best-step-40.json"}),
        ("best", "best (step 80)", {"controls.json", "evaluation.json"}),
        ("best (step 40)", None, {"controls-best-step-40.json"}),
        ("best", None, {"controls.json"}),
        (None, "best (step 40)", {"evaluation-best-step-40.json"}),
    ],
)
def test_what_was_measured_of_older_weights_is_put_aside(
    tmp_path: Path, examined: str | None, evaluation: str | None, left: set[str]
) -> None:
    for name, weights in (("controls.json", examined), ("evaluation.json", evaluation)):
        if weights:
            (tmp_path / name).write_text(json.dumps({"checkpoint": weights}))
    put_aside(tmp_path, "best (step 80)")
    assert {file.name for file in tmp_path.iterdir()} == left
