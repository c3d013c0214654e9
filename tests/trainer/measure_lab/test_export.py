"""A run becomes a folder, the folder a codec: weights, card, bits, and the one decoder it is for."""

from __future__ import annotations

import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from shared.wire import ModelCard
from trainer.cli import main
from trainer.config import ConfigError, dump_yaml
from trainer.config_text import STARTER_STUDENT, TextConfig
from trainer.export import export
from trainer.export_codec import Codec, read_codec
from trainer.measure.message_code import CodeError, MessageModel
from trainer.measure.rates_read import Words
from trainer.measure.record import Record
from trainer.measure.tables import row_of
from trainer.tasks.starter import starter_tasks

TASKS = starter_tasks("test", 6, 0)
TRAIN = starter_tasks("train", 40, 0)
WORDS = Words(STARTER_STUDENT / "tokenizer.json")
DECODER = {
    "name": "echo", "engine": "echo", "weights_sha256": None, "quantization": "none", "template_sha256": "e",
}  # fmt: skip


def write_run(folder: Path, checkpoint: Path, *, student: str = "starter", decoder: Any = None) -> Path:
    """A finished run whose messages were the references, with an evaluation and no controls."""
    (folder / "checkpoints").mkdir(parents=True)
    shutil.copytree(checkpoint, folder / "checkpoints" / "best")
    (folder / "checkpoints" / "best" / "training_args.bin").write_bytes(b"not to be copied")
    (folder / "checkpoints" / "best" / "best.json").write_text('{"step": 7}')
    config = TextConfig(student_model=student, lora=None, dataset="starter", max_completion_length=64, seed=3)
    (folder / "config.yaml").write_text(dump_yaml(config))
    heldout = {"n": 6, "pass_rate": 0.5, "tokens_per_message": 12.5}
    (folder / "summary.json").write_text(json.dumps({"channel": "text", "heldout": heldout}))
    episodes = [
        {"step": step, "message": task.reference, "outcome": "passed"} for step in (1, 40) for task in TRAIN
    ]
    (folder / "episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in episodes))
    (folder / "services.json").write_text(json.dumps({"decoder": decoder or DECODER}))
    return folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    run = write_run(folder / "run|<b>", STARTER_STUDENT)
    export(run, folder / "out")
    return folder / "out"


def test_the_weights_are_the_checkpoints_and_nothing_is_pickled(exported: Path) -> None:
    names = {file.name for file in exported.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "codec.json"} <= names
    assert not {"training_args.bin", "best.json", "optimizer.pt"} & names
    own = (STARTER_STUDENT / "model.safetensors").read_bytes()
    assert (exported / "model.safetensors").read_bytes() == own


def test_the_card_is_filled_from_the_run(exported: Path) -> None:
    from huggingface_hub import ModelCard as HubCard

    card = HubCard.load(exported / "README.md")
    assert card.data.library_name == "transformers" and card.data.license == "mit"
    assert {r.metric_type: r.metric_value for r in card.data.eval_results} == {
        "pass_rate": 0.5, "tokens_per_message": 12.5,
    }  # fmt: skip
    assert "Not measured: `psuedoptimal controls RUN`" in card.text
    assert "| engine | echo |" in card.text and "| seed | 3 |" in card.text
    codec = json.loads((exported / "codec.json").read_text())
    assert all(digest in card.text for digest in codec["files"].values())
    assert codec["step"] == 7 and codec["messages"]["fitted_on"] == 40  # of the last quarter only


def measured(weights: str, passed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """An evaluation and controls of these weights, by which so many of six messages passed."""
    records = [
        Record(t.task_id, "f", t.reference, 10, "", "", "passed" if i < passed else "failed", "value")
        for i, t in enumerate(TASKS)
    ]
    before = {task.task_id: 40 for task in TASKS}
    row = row_of("student", "student", records, untrained_tokens=before, reference_tokens=before).as_json()
    evaluation = {
        "checkpoint": weights,
        "rows": [row],
        "records": {"student": [r._asdict() for r in records]},
    }
    rows = [{**row, "kind": "control", "name": f"shuffled of {weights}"}]
    return evaluation, {"checkpoint": weights, "controls": {"rows": rows}}


def test_a_card_has_the_figures_of_the_weights_beside_it_and_of_no_others(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard as HubCard

    run = write_run(tmp_path / "run", STARTER_STUDENT)
    shutil.copytree(STARTER_STUDENT, run / "checkpoints" / "checkpoint-20")
    (run / "summary.json").write_text(
        '{"channel": "text", "step": 7, "heldout": {"n": 6, "pass_rate": 0.25}}'
    )

    def write(kind: str, weights: str, passed: int) -> None:
        for name, found in zip(("evaluation", "controls"), measured(weights, passed), strict=True):
            (run / f"{name}{kind}.json").write_text(json.dumps(found))

    def told(which: str) -> tuple[dict[str, float], bool, str]:
        out = tmp_path / "out"
        bits = export(run, out, which=which)["messages"]["bits"]
        card = HubCard.load(out / "README.md")
        shutil.rmtree(out)
        return (
            {r.metric_type: r.metric_value for r in card.data.eval_results or ()},
            bits is not None,
            card.text,
        )

    figures, bits, card = told("best")
    assert figures == {"pass_rate": 0.25} and not bits  # of summary.json, which is of these weights
    write("", "best (step 7)", 3)
    figures, bits, card = told("best")
    assert figures == {"pass_rate": 0.5, "tokens_per_message": 10, "compression_vs_untrained": 4} and bits
    assert "shuffled of best (step 7)" in card
    for which in ("20", "last"):
        figures, bits, card = told(which)
        assert figures == {} and not bits and "shuffled" not in card
        assert "these weights, checkpoint-20, were not evaluated" in card
        assert all(
            f"`psuedoptimal {verb} RUN --checkpoint {which}`" in card for verb in ("evaluate", "controls")
        )
        write(f"-checkpoint-{which}", "checkpoint-20", 6)
        figures, bits, card = told(which)
        assert figures["pass_rate"] == 1 and bits and "shuffled of checkpoint-20" in card
    (run / "checkpoints" / "best" / "best.json").write_text('{"step": 9}')  # the run has gone on since
    figures, bits, card = told("best")
    assert figures == {} and not bits and "shuffled" not in card and "best, were not evaluated" in card


def test_a_student_writes_what_it_wrote_before(exported: Path) -> None:
    from trainer.measure.students import encode_tasks, load_student

    before = encode_tasks(load_student(STARTER_STUDENT), TASKS, max_new_tokens=64)
    assert read_codec(exported).encode(TASKS) == before
    assert sum(m.text == t.reference for m, t in zip(before, TASKS, strict=True)) >= 4


def test_a_message_survives_its_bits(exported: Path) -> None:
    codec = read_codec(exported)
    texts = [task.reference for task in TASKS]
    words = [codec.to_bits(text) for text in texts]
    assert codec.from_bits("".join(words)) == texts
    tokens = [len(WORDS.ids(text)) for text in texts]
    assert sum(map(len, words)) < 4 * sum(tokens)  # of 9.2 bits a token by the vocabulary
    with pytest.raises(CodeError, match="spelling"):
        codec.to_bits("ünlikely")


def test_another_decoder_is_refused(exported: Path, rooms: Any, capsys: Any) -> None:
    url = ["--decoder-url", rooms.decoder.url]
    assert main(["decode", "--codec", str(exported), *url, "x = 1"]) == 2
    assert "template_sha256" in capsys.readouterr().err
    bits = read_codec(exported).to_bits(TASKS[0].reference)
    argv = ["decode", "--codec", str(exported), *url, "--any-decoder", "--bits", bits]
    assert main(argv) == 0
    assert capsys.readouterr().out.rstrip("\n") == TASKS[0].reference
    assert main(["decode", "--codec", str(exported), *url, "--any-decoder", "--bits", bits[:-1]]) == 2
    assert main(["decode", *url, "--bits", bits]) == 2


def test_the_right_decoder_is_taken(rooms: Any, tmp_path: Path, capsys: Any) -> None:
    from shared.clients import DecoderClient, run

    async def ask() -> Any:
        async with DecoderClient(rooms.decoder.url) as decoder:
            return await decoder.model()

    card = run(ask()).model_dump(mode="json")
    out = tmp_path / "out"
    export(write_run(tmp_path / "run", STARTER_STUDENT, decoder=card), out)
    assert main(["decode", "--codec", str(out), "--decoder-url", rooms.decoder.url, "x = 1"]) == 0
    assert capsys.readouterr().out == "x = 1\n"


@pytest.mark.parametrize(
    ("differs", "said"),
    [
        ({}, None),
        ({"name": "b/other"}, "name 'b/other' instead of 'a/own'"),
        ({"revision": "2"}, "revision '2' instead of '1'"),
        ({"revision": None}, None),
    ],
)
def test_a_remote_decoder_is_told_by_its_name_and_revision(differs: dict[str, Any], said: str | None) -> None:
    card = ModelCard(
        name="a/own", engine="remote", revision="1", quantization="unknown", dtype="unknown", device="remote",
        template_sha256="t", libraries={},
    )  # fmt: skip
    codec = Codec(Path(), {"decoder": card.model_dump(mode="json")}, WORDS, MessageModel(WORDS.vocabulary))
    expected = pytest.raises(ConfigError, match=f"{said}.*--any-decoder") if said else nullcontext()
    with expected:
        codec.check(card.model_copy(update=differs))


def test_encode_prints_messages_and_bits(exported: Path, monkeypatch: Any, capsys: Any) -> None:
    import io

    task = TASKS[0]
    assert main(["encode", str(exported), task.text, "--signature", task.signature, "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "Loading weights" not in said.err
    assert found["message"] == task.reference and set(found["bits"]) == {"0", "1"}
    monkeypatch.setattr(
        "sys.stdin", io.StringIO(json.dumps({"text": task.text, "signature": task.signature}))
    )
    assert main(["encode", str(exported), "--bits"]) == 0
    assert capsys.readouterr().out.strip() == found["bits"]
    for stdin in ("", "{", '{"text": "x"}'):
        monkeypatch.setattr("sys.stdin", io.StringIO(stdin))
        assert main(["encode", str(exported)]) == 2
        assert "Traceback" not in capsys.readouterr().err


def test_a_changed_file_is_found(exported: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(exported, tmp_path / "copy")
    with (copy / "generation_config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ConfigError, match="changed since the export"):
        read_codec(copy)
    with pytest.raises(ConfigError, match="no codec"):
        read_codec(tmp_path)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft asks it
def test_an_adapter_stays_one_or_is_merged_with_the_same_words(tmp_path: Path) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from trainer.measure.students import encode_tasks, load_student

    base = AutoModelForCausalLM.from_pretrained(STARTER_STUDENT)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(tmp_path / "adapter")
    before = encode_tasks(load_student(tmp_path / "adapter", base=STARTER_STUDENT), TASKS, max_new_tokens=64)
    run = write_run(tmp_path / "run", tmp_path / "adapter")
    found = export(run, tmp_path / "small")
    stored = json.loads((tmp_path / "small" / "adapter_config.json").read_text())
    assert found["kind"] == "adapter" and stored["base_model_name_or_path"] == found["base"]
    assert str(STARTER_STUDENT) not in (tmp_path / "small" / "adapter_config.json").read_text()
    assert "library_name: peft" in (tmp_path / "small" / "README.md").read_text()
    assert read_codec(tmp_path / "small").encode(TASKS) == before
    assert export(run, tmp_path / "large", merge=True)["kind"] == "full"
    assert read_codec(tmp_path / "large").encode(TASKS) == before


def test_what_cannot_be_exported_is_named_and_leaves_nothing(tmp_path: Path, capsys: Any) -> None:
    run = write_run(tmp_path / "run", STARTER_STUDENT)
    out = tmp_path / "out"
    assert main(["export", str(run), "--out", str(out), "--checkpoint", "9"]) == 2
    (run / "episodes.jsonl").unlink()
    assert main(["export", str(run), "--out", str(out)]) == 2
    assert "no message" in capsys.readouterr().err and not out.exists()
    (run / "checkpoints" / "best" / "model.safetensors").write_bytes(b"half")
    assert main(["export", str(run), "--out", str(out)]) == 2
    assert "cannot be read" in capsys.readouterr().err and not out.exists()
    out.mkdir()
    (out / "mine").write_text("x")
    assert main(["export", str(run), "--out", str(out)]) == 2
    assert "there is something already" in capsys.readouterr().err and (out / "mine").is_file()
