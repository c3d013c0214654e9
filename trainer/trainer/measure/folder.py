"""Read a run folder as it is found: half-written, from an older version, or still growing. Never writes one.

What is absent is absent in the answer; only a file that is there and unreadable is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trainer.config import C, load_yaml, resolve
from trainer.runs import COMPLETE

# The evaluation a run is known by: its best weights on all of its own test tasks.
EVALUATION = "evaluation.json"
CHECKPOINT = re.compile(r"^(?:checkpoint-)?(\d+)$")


@dataclass(frozen=True)
class RunFolder:
    """Everything a run left behind, parsed; an absent file is empty."""

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    services: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    episodes: list[dict[str, Any]] = field(default_factory=list)
    heldout: list[dict[str, Any]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The folder's name: what the run is called everywhere."""
        return self.path.resolve().name

    def setting(self, name: str, default: Any = None) -> Any:
        """Return one setting of the run, whichever section of its config it stands in."""
        if self.config.get(name) is not None:
            return self.config[name]
        for section in self.config.values():
            if isinstance(section, dict) and section.get(name) is not None:
                return section[name]
        return default


def own_settings(
    model: type[C], run: Path, given: Mapping[str, Any] = {},
    over: Mapping[str, Any] = {}, *, variables: Collection[str] = (),
) -> C:  # fmt: skip
    """Return the settings a run was made with: no variable says otherwise, unless it may be told anew.

    given, over  as of config.resolve
    variables    the settings that PSUEDOPTIMAL_* variables may give anew
    raises       ConfigError if there are none, or they are of another version
    """
    return resolve(model, [run / "config.yaml"], given, over, variables=variables)


def sampled(episodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the episodes without the anchors, which are not the student's own messages."""
    return [line for line in episodes if not line.get("anchor")]


def read_run(path: str | Path, *, episodes: bool = True, evaluation: str = EVALUATION) -> RunFolder:
    """Read a run folder.

    episodes    False leaves out the two long files, which only a report needs
    evaluation  which of the run's evaluations
    raises      FileNotFoundError if the folder does not exist, holds nothing of a run, or not that evaluation
    """
    folder = Path(path)
    if not folder.exists():
        raise FileNotFoundError(f"{folder}: no such folder; `ls {folder.parent}` shows what there is")
    known = ("config.yaml", "metrics.jsonl", "summary.json", EVALUATION, "checkpoints")
    if not any((folder / name).exists() for name in known):
        raise FileNotFoundError(f"{folder} is no run folder: it has none of {', '.join(known)}")
    if evaluation != EVALUATION and not (folder / evaluation).is_file():
        there = ", ".join(sorted(file.name for file in folder.glob("evaluation*.json"))) or "none"
        raise FileNotFoundError(f"{folder / evaluation}: no such evaluation; there are: {there}")
    lines = [
        *read_lines(folder / "metrics.jsonl"),
        *map(_as_metric, read_lines(folder / "evaluations.jsonl")),
    ]
    return RunFolder(
        folder,
        config=_yaml(folder / "config.yaml"),
        services=read_object(folder / "services.json"),
        summary=read_object(folder / "summary.json"),
        evaluation=read_object(folder / evaluation),
        metrics=latest_by_step(lines),
        episodes=sampled(read_lines(folder / "episodes.jsonl")) if episodes else [],
        heldout=read_lines(folder / "heldout.jsonl") if episodes else [],
    )


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON-lines file; a line cut short by a kill is left out, as are non-objects."""
    if not file.is_file():
        return []
    found = []
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                found.append(value)
    return found


def _as_metric(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return one line of evaluations.jsonl as figures of its step; those of the test split stay apart."""
    group = "test" if evaluation.get("split") == "test" else "heldout"
    found = {f"{group}/{key}": evaluation.get(key) for key in ("pass_rate", "tokens")}
    return {"step": evaluation.get("step"), **found}


def latest_by_step(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Merge the lines of one step, in order: training and evaluation come apart, a resumed step twice.

    Later lines win, key by key. Lines without a numeric `step` are left out.
    """
    steps: dict[float, dict[str, Any]] = {}
    for line in lines:
        step = line.get("step")
        if isinstance(step, int | float) and not isinstance(step, bool):
            steps.setdefault(step, {}).update(line)
    return [steps[step] for step in sorted(steps)]


def checkpoint_name(checkpoint: Path) -> str:
    """Return a checkpoint's name, with its step where it is called "best"."""
    step = read_object(checkpoint / "best.json").get("step")
    return checkpoint.name if step is None else f"{checkpoint.name} (step {step})"


def checkpoint_folder(run: Path, which: str = "best") -> Path:
    """Return the folder of a checkpoint: "best", "last", or a step.

    best    checkpoints/best, or what a kill while it was replaced left of it; the last one where the run
            marked none
    last    the last one that was written to its end, where the run says which were
    raises  FileNotFoundError naming what there is
    """
    root = run / "checkpoints"
    numbered = {}
    for folder in root.iterdir() if root.is_dir() else ():
        match = CHECKPOINT.match(folder.name)
        if match and folder.is_dir():
            numbered[int(match[1])] = folder
    whole = {step: folder for step, folder in numbered.items() if (folder / COMPLETE).is_file()}
    numbered = whole or numbered
    for name in ("best", "best.old"):
        if which == "best" and (root / name).is_dir():
            return root / name
    if which in ("best", "last") and numbered:
        return numbered[max(numbered)]
    if which.isdigit() and int(which) in numbered:
        return numbered[int(which)]
    there = ", ".join(str(step) for step in sorted(numbered)) or "none"
    raise FileNotFoundError(f"no checkpoint {which!r} in {root}; there are: {there}")


def read_object(file: Path) -> dict[str, Any]:
    """Return a JSON object; {} where there is no file."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error}); write it again or remove it") from error
    return value if isinstance(value, dict) else {}


def _yaml(file: Path) -> dict[str, Any]:
    """Return a YAML mapping; {} where there is no file. Raises ConfigError naming a file that holds none."""
    return load_yaml(file) if file.is_file() else {}
