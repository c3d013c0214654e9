"""`psuedoptimal language RUN [RUN...]`: what the messages are like, and how much they change.

From files only: evaluation.json for the statistics, heldout.jsonl for the way there, several runs for what
another seed would have said. Nothing is run again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

from trainer.cli_verbs import add_runs
from trainer.measure.compositionality import Stability, stability
from trainer.measure.folder import RunFolder, read_run
from trainer.measure.language import normalised_distance
from trainer.measure.rates_read import Words, channel_of, words_of
from trainer.measure.tables import finite

EXAMPLE = """examples, after `psuedoptimal demo`:
  psuedoptimal language runs/demo-*-seed1
  psuedoptimal language runs/demo-*-seed* --json
"""
STATISTICS = (
    ("tokens", "tokens in all messages"), ("distinct_tokens", "distinct tokens"),
    ("token_entropy_bits", "entropy of a token, bits"), ("distinct_messages", "distinct messages"),
    ("message_entropy_bits", "entropy of a message, bits"), ("zipf", "Zipf's slope"),
    ("abbreviation", "law of abbreviation, rho"), ("by_family", "topographic similarity, task's family"),
    ("by_reference", "topographic similarity, reference code"), ("posdis", "disentanglement by place"),
    ("bosdis", "disentanglement by symbol"),
)  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One look at a student on the way: against the look before, and against the last one."""

    step: int
    tokens: float
    since: Stability | None
    to_last: Stability

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON."""
        return {
            "step": self.step, "tokens": self.tokens, "since": self.since and self.since._asdict(),
            "to_last": self.to_last._asdict(),
        }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the runs."""
    add_runs(parser, "evaluated text runs")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.epilog = EXAMPLE


def command(args: argparse.Namespace) -> int:
    """Print; 2 if a run is missing something."""
    try:
        found = languages([read_run(path) for path in args.runs])
    except (ValueError, FileNotFoundError) as error:
        print(f"psuedoptimal language: {error}", file=sys.stderr)
        return 2
    print(json.dumps(found, indent=1) if args.json else as_text(found))
    return 0


def languages(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """Return each run's statistics and way, and how alike every two runs' messages are.

    raises  ValueError for another channel, a run that was not evaluated, or different tasks
    """
    found: dict[str, Any] = {"runs": [], "seeds": []}
    for run in runs:
        if channel_of(run) != "text" or not run.evaluation.get("records"):
            raise ValueError(
                f"{run.path}: no evaluated text run; run `psuedoptimal evaluate {run.path}` first"
            )
        language = run.evaluation.get("language", {})
        if "zipf" not in language.get("student", {}):
            raise ValueError(
                f"{run.path}: evaluated by an older version; run `psuedoptimal evaluate {run.path}` again"
            )
        way = [step.as_json() for step in steps_of(run, words_of(run))]
        found["runs"].append({"run": run.name, "language": language, "checkpoints": way})
    for one, two in combinations(runs, 2):
        if one.evaluation["tasks"]["sha256"] != two.evaluation["tasks"]["sha256"]:
            raise ValueError(f"{one.path} and {two.path}: evaluated on different tasks; use the same --n")
        left, right = (_ids(run.evaluation["records"]["student"], words_of(run)) for run in (one, two))
        alike = stability(left, right, normalised_distance)
        found["seeds"].append({"runs": [one.name, two.name], **alike._asdict()})
    return dict(finite(found))


def steps_of(run: RunFolder, words: Words) -> list[Step]:
    """Return how the messages to the validation tasks changed from look to look; empty for a single look."""
    by_step: dict[int, dict[str, str]] = {}
    for line in run.heldout:
        if line.get("split", "validation") == "validation":
            by_step.setdefault(int(line["step"]), {})[str(line["task_id"])] = str(line["message"])
    steps = sorted(by_step)
    if len(steps) < 2:
        return []
    tasks = sorted(set.intersection(*(set(found) for found in by_step.values())))
    said = [[words.ids(by_step[step][task]) for task in tasks] for step in steps]
    return [
        Step(
            step, sum(map(len, said[i])) / len(tasks),
            stability(said[i - 1], said[i], normalised_distance) if i else None,
            stability(said[i], said[-1], normalised_distance),
        )
        for i, step in enumerate(steps)
    ]  # fmt: skip


def _ids(records: Sequence[dict[str, Any]], words: Words) -> list[list[int]]:
    return [words.ids(str(record["message"])) for record in records]


def as_text(found: dict[str, Any]) -> str:
    """Return the tables for a terminal."""
    parts = []
    for run in found["runs"]:
        names = [name for name in ("untrained student", "student") if name in run["language"]]
        rows = [["", *names]]
        for key, title in STATISTICS:
            rows.append([title, *(_said(run["language"][name].get(key)) for name in names)])
        parts.append(f"{run['run']}\n{_aligned(rows)}")
        if run["checkpoints"]:
            head = [
                "step",
                "tokens",
                "same as before",
                "distance",
                "same as the last",
                "distance",
                "by chance",
            ]
            lines = [head]
            for s in run["checkpoints"]:
                since = s["since"] or {"same": None, "distance": None}
                lines.append([
                    str(s["step"]), f"{s['tokens']:.1f}", _number(since["same"]), _number(since["distance"]),
                    _number(s["to_last"]["same"]), _number(s["to_last"]["distance"]),
                    _number(s["to_last"]["by_chance"]),
                ])  # fmt: skip
            parts.append(_aligned(lines))
    if found["seeds"]:
        rows = [["two seeds", "same message", "distance", "by chance"]]
        rows += [
            [" and ".join(s["runs"]), _number(s["same"]), _number(s["distance"]), _number(s["by_chance"])]
            for s in found["seeds"]
        ]
        parts.append(_aligned(rows))
    return "\n\n".join(parts)


def _said(value: Any) -> str:
    """Return a statistic as it is said: a number, one with its null, or a slope with what it explains."""
    match value:
        case {"null_mean": null, "p": p, **rest} if (first := rest.get("value", rest.get("rho"))) is not None:
            return f"{first:.2f} (null {null:.2f}, p {p:.3f})"
        case {"slope": slope, "r2": r2} if slope is not None:
            return f"{slope:.2f} (r² {r2:.2f})"
        case int() | float():
            return f"{value:.4g}"
    return "–"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)
