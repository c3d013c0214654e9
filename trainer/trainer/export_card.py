"""The model card of an exported student, filled from its run: nothing in it was not measured or set there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.config_text import STARTER, TextConfig
from trainer.measure.folder import RunFolder

SETTINGS = (
    "reward", "target_pass_rate", "seed", "max_steps", "num_epochs", "learning_rate", "num_generations",
    "temperature", "loss_type", "scale_rewards", "train_tasks", "max_completion_length",
)  # fmt: skip


def card_of(
    run: RunFolder, config: TextConfig, codec: Mapping[str, Any], controls: Mapping[str, Any], which: str
) -> str:
    """Return the card: a header for the hub, then what the student is, was measured at, and needs.

    run       with what was measured of these weights, and of no others
    codec     what codec.json holds
    controls  of these weights; empty where there are none
    which     checkpoint: best, last or a step
    """
    from huggingface_hub import ModelCardData

    flag = "" if which == "best" else f" --checkpoint {which}"
    starter, adapter = config.student_model == STARTER, codec["kind"] == "adapter"
    data = ModelCardData(
        license="mit" if starter else None,
        library_name="peft" if adapter else "transformers",
        base_model=None if starter else codec["base"],
        pipeline_tag="text-generation",
        tags=["psuedoptimal", "message-compression"],
        datasets=None if starter else [config.dataset],
        model_name=run.name,
        eval_results=_results(run, config),
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {run.name}: a student that sends short messages",
        "Given a programming task, this model writes a message of a few tokens; the frozen decoder named "
        "below turns it into a program. It was trained by reward alone: a message earns something only if "
        "the program passes every test, and more the shorter it is.",
        _use(adapter, codec),
        _figures(run, codec, flag),
        _controls(run, controls, flag),
        _decoder(codec["decoder"]),
        _data(run, config),
        "## Settings\n\n" + _table(["setting", "value"], [(name, _setting(run, name)) for name in SETTINGS]),
        "## Files\n\n" + _table(["file", "SHA-256"], list(codec["files"].items())),
        "## Not for\n\nAny other decoder, before it was measured with it: messages are made for this one. "
        "Programs that come of them are a model's output; run them in a sandbox.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _results(run: RunFolder, config: TextConfig) -> list[Any] | None:
    """Return the held-out figures for the card's header; None where nothing was measured."""
    from huggingface_hub import EvalResult

    heldout = run.summary.get("heldout", {})
    named = {"pass_rate": "pass rate", "tokens_per_message": "tokens per message",
             "compression_vs_untrained": "times fewer tokens than untrained"}  # fmt: skip
    found = [
        EvalResult(
            task_type="text-generation", dataset_type=config.dataset, dataset_name=config.dataset,
            dataset_split="test", metric_type=key, metric_name=name, metric_value=round(heldout[key], 4),
        )
        for key, name in named.items()
        if isinstance(heldout.get(key), int | float)
    ]  # fmt: skip
    return found or None


def _use(adapter: bool, codec: Mapping[str, Any]) -> str:
    kind = "a PEFT adapter on" if adapter else "full weights, trained from"
    return (
        f"This folder is {kind} `{codec['base']}`.\n\n"
        "```bash\n"
        "psuedoptimal encode FOLDER --signature 'def f(n):' 'Write a function to ...'\n"
        "psuedoptimal serve decoder &\n"
        "psuedoptimal decode --codec FOLDER 'MESSAGE'\n"
        "```"
    )


def _figures(run: RunFolder, codec: Mapping[str, Any], flag: str) -> str:
    """Return the held-out table, with the rows of the evaluation where there is one."""
    rows: list[tuple[str, ...]] = []
    heldout = run.summary.get("heldout", {})
    for row in run.evaluation.get("rows", []):
        rate, tokens = row["pass_rate"], row["tokens"]
        rows.append((
            row["name"], str(row["n"]), f"{rate['value']:.3f} ({rate['low']:.2f}–{rate['high']:.2f})",
            f"{tokens['value']:.1f}",
        ))  # fmt: skip
    if not rows and heldout:
        rate, tokens = heldout.get("pass_rate"), heldout.get("tokens_per_message")
        rows = [("student", str(heldout.get("n")), f"{rate}", f"{tokens}")]
    if not rows:
        return (
            f"## Measured\n\nNothing: these weights, {codec['checkpoint']}, were not evaluated. Export them "
            f"again after `psuedoptimal evaluate RUN{flag}`, for the run {run.name}."
        )
    bits = codec["messages"]["bits"]
    coded = "" if bits is None else (
        f"\n\nA message takes {bits:.1f} bits as a code word of `message_model.json`, its end included; the "
        "model was fitted on messages to other tasks."
    )  # fmt: skip
    return "## Measured\n\n" + _table(["sender", "n", "pass rate (95 %)", "tokens"], rows) + coded


def _controls(run: RunFolder, found: Mapping[str, Any], flag: str) -> str:
    """Return the controls' table; how to get one where there is none."""
    if not found:
        return f"## Controls\n\nNot measured: `psuedoptimal controls RUN{flag}` does, for the run {run.name}."
    rows = [
        (row["name"], f"{row['pass_rate']['value']:.3f}")
        for row in found["controls"]["rows"]
        if row["kind"] == "control"
    ]
    rows += [(row["name"], f"{row['pass_rate']['value']:.3f}") for row in found.get("names", [])]
    rows += [(row["decoder"], f"{row['student']['value']:.3f}") for row in found.get("transfer", [])]
    said = found.get("phrasebook", {}).get("verdict", "")
    return "\n\n".join(["## Controls", _table(["control", "pass rate"], rows), said]).strip()


def _decoder(card: Mapping[str, Any]) -> str:
    if not card:
        return "## Decoder\n\nUnknown: the run kept no services.json."
    names = ("name", "engine", "revision", "weights_sha256", "parameters", "quantization", "dtype",
             "template_sha256")  # fmt: skip
    rows = [(name, str(card[name])) for name in names if card.get(name) is not None]
    return "## Decoder\n\nFrozen; messages are made for it.\n\n" + _table(["", ""], rows)


def _data(run: RunFolder, config: TextConfig) -> str:
    about = run.evaluation.get("tasks", {})
    rows = [("source", config.dataset), ("measured on", f"{about.get('n', '–')} tasks of its test split"),
            ("SHA-256 of those tasks", str(about.get("sha256", "–")))]  # fmt: skip
    return "## Data\n\n" + _table(["", ""], rows)


def _setting(run: RunFolder, name: str) -> str:
    return str(run.setting(name, "–"))


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(c) for c in line) + " |" for line in lines)


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")
