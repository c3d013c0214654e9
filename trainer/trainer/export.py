"""Make a folder of a trained student: weights, tokenizer, message model, what it belongs to, a model card.

Of a checkpoint only what a reader needs goes along; nothing that has to be unpickled does. The folder loads
with peft or transformers, uploads to a hub as it is, and is the codec of `psuedoptimal encode` and `decode`.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from trainer.checkpoints import weights_damage
from trainer.config import ConfigError
from trainer.config_text import STARTER, TextConfig
from trainer.export_card import card_of
from trainer.measure.evaluate import with_heldout
from trainer.measure.evaluation_file import CONTROLS, file_name, weights_of
from trainer.measure.folder import (
    RunFolder,
    checkpoint_folder,
    checkpoint_name,
    own_settings,
    read_object,
    read_run,
)
from trainer.measure.message_code import MessageModel
from trainer.measure.rates_read import Words, channel_of, words_of
from trainer.measure.tables import row_from_json

CODEC, MESSAGES = "codec.json", "message_model.json"
FORMAT = 1
KEPT = (
    "config.json", "generation_config.json", "adapter_config.json", "chat_template.jinja", "tokenizer*",
    "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.safetensors",
    "*.safetensors.index.json",
)  # fmt: skip
# The last part of a run's messages: what the student had become by then.
LAST = 0.25


def export(run: Path, out: Path, *, which: str = "best", merge: bool = False) -> dict[str, Any]:
    """Write the folder and return its codec.json.

    run     a finished run of the text channel, with its checkpoints
    out     the folder to make; it must not hold anything yet
    which   checkpoint: best, last or a step
    merge   whether an adapter is merged into its base, so that the folder needs no other
    raises  ConfigError, FileNotFoundError or ValueError naming what is missing; then nothing is left behind
    """
    folder = read_run(run)
    if channel_of(folder) != "text":
        raise ConfigError(
            f"{run}: a {channel_of(folder)} run; only students of the text channel are exported"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: there is something already; name a folder that is not there yet")
    checkpoint = checkpoint_folder(run, which)
    if damage := weights_damage(checkpoint):
        raise ConfigError(f"{damage}; take another checkpoint (--checkpoint last, or a step)")
    config = own_settings(TextConfig, run)
    adapter = (checkpoint / "adapter_config.json").is_file()
    there = out.is_dir()
    out.mkdir(parents=True, exist_ok=True)
    try:
        if adapter and merge:
            _merged(checkpoint, config, out)
        else:
            _copied(checkpoint, config, out)
        found = _described(folder, config, checkpoint, out, which, adapter=adapter and not merge)
    except BaseException:
        shutil.rmtree(out)
        if there:
            out.mkdir()
        raise
    return found


def _copied(checkpoint: Path, config: TextConfig, out: Path) -> None:
    """Copy weights and tokenizer; an adapter names the base by the name anyone can load, not by a path."""
    for pattern in KEPT:
        for file in sorted(checkpoint.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, out / file.name)
    settings = out / "adapter_config.json"
    if settings.is_file():
        stored = json.loads(settings.read_text(encoding="utf-8"))
        stored["base_model_name_or_path"] = base_of(config)
        settings.write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if not (out / "tokenizer_config.json").is_file():
        from trainer.measure.students import load_tokenizer

        load_tokenizer(config.student_source).save_pretrained(out)


def _merged(checkpoint: Path, config: TextConfig, out: Path) -> None:
    """Write the base with the adapter added to its weights."""
    from trainer.channels.text.student import quiet_libraries
    from trainer.measure.students import load_student

    quiet_libraries()
    student = load_student(checkpoint, base=config.student_source)
    student.model.merge_and_unload().save_pretrained(out)
    student.tokenizer.save_pretrained(out)


def base_of(config: TextConfig) -> str:
    """Return what the student was before, as anyone can name it."""
    return "psuedoptimal-starter-student" if config.student_model == STARTER else config.student_model


def _described(
    run: RunFolder, config: TextConfig, checkpoint: Path, out: Path, which: str, *, adapter: bool
) -> dict[str, Any]:
    """Write the message model, codec.json and the card."""
    words = words_of(run)
    said = messages_of(run)
    model = MessageModel(words.vocabulary).fit([words.ids(text) for text in said])
    (out / MESSAGES).write_text(json.dumps(model.as_json(), separators=(",", ":")) + "\n", encoding="utf-8")
    decoder = run.evaluation.get("decoder") or run.services.get("decoder") or {}
    step = read_object(checkpoint / "best.json").get("step")
    own = measured(run, config, checkpoint, which)
    found: dict[str, Any] = {
        "format": FORMAT, "run": run.name, "checkpoint": checkpoint.name, "step": step,
        "kind": "adapter" if adapter else "full", "base": base_of(config),
        "max_message_tokens": config.max_completion_length, "max_program_tokens": config.max_program_tokens,
        "messages": {
            "vocabulary": words.vocabulary, "fitted_on": len(said), "bits": _bits(own, words, model),
        },
        "decoder": decoder,
        "files": {file.name: sha256(file) for file in sorted(out.iterdir()) if file.is_file()},
    }  # fmt: skip
    (out / CODEC).write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    card = card_of(own, config, found, controls_of(run, checkpoint, which), which)
    (out / "README.md").write_text(card, encoding="utf-8")
    return found


def measured(run: RunFolder, config: TextConfig, checkpoint: Path, which: str) -> RunFolder:
    """Return the run with what was measured of these weights, and nothing that was measured of others."""
    name, own = checkpoint_name(checkpoint), read_object(run.path / file_name([f"checkpoint-{which}"]))
    evaluation = next((e for e in (run.evaluation, own) if e.get("checkpoint") == name), {})
    steps = {read_object(checkpoint / "best.json").get("step"), run.summary.get("step")} - {None}
    if evaluation.get("rows"):
        summary = with_heldout(run, config, row_from_json(evaluation["rows"][0]))
    elif which == "best" and len(steps) < 2:
        summary = run.summary
    else:
        summary = {**run.summary, "heldout": {}}
    return replace(run, evaluation=evaluation, summary=summary)


def controls_of(run: RunFolder, checkpoint: Path, which: str) -> dict[str, Any]:
    """Return the controls of these weights; {} where there are none."""
    name = checkpoint_name(checkpoint)
    different = [] if which == "best" else [f"checkpoint-{which}"]
    found = read_object(run.path / file_name(different, CONTROLS))
    return found if weights_of(found, run.evaluation, name) == name else {}


def messages_of(run: RunFolder) -> list[str]:
    """Return messages that the message model may be fitted on: to training and validation tasks, late ones.

    raises  ConfigError where the run kept none
    """
    last = max((int(line["step"]) for line in run.episodes), default=0)
    said = [
        str(line["message"]) for line in run.episodes
        if line["step"] > (1 - LAST) * last and line.get("outcome") == "passed"
    ]  # fmt: skip
    looks = [line for line in run.heldout if line.get("split", "validation") == "validation"]
    end = max((int(line["step"]) for line in looks), default=0)
    said += [str(line["message"]) for line in looks if line["step"] == end]
    if not said:
        raise ConfigError(f"{run.path}: no message in episodes.jsonl or heldout.jsonl; train the run further")
    return said


def _bits(run: RunFolder, words: Words, model: MessageModel) -> float | None:
    """Return the mean code length of the test messages, which the model has not seen; None if unmeasured."""
    records = run.evaluation.get("records", {}).get("student", [])
    bits = [len(model.encode(words.ids(str(record["message"])))) for record in records]
    return sum(bits) / len(bits) if bits else None


def sha256(file: Path) -> str:
    """Return a file's hash, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
