"""Greedy held-out evaluation while a run goes on, and what summary.json holds.

The validation sequences choose the checkpoint; the held-out ones are looked at before the first step and
after the last one only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from shared.clients import run
from trainer.channels.program.environment import judge
from trainer.channels.program.execution import Executor
from trainer.channels.program.policy import Policy, write_programs
from trainer.channels.program.search import connect
from trainer.channels.text.exchange import patiently
from trainer.config_program import ProgramConfig
from trainer.measure.programs import Figures, figures


class Evaluation(NamedTuple):
    """What a policy is worth on one split, greedy: `measure.programs.Figures`, and when."""

    step: int
    split: str
    n: int
    accuracy: float
    executable: float
    bits_per_program: float | None
    bits_per_sequence: float
    compression_rate: float
    precision: float | None
    bits_alone: float | None = None  # an evaluation of an earlier version has none
    rate_alone: float | None = None


class HeldOut(NamedTuple):
    """An evaluation, its rows for heldout.jsonl, and the figures it is taken from."""

    evaluation: Evaluation
    rows: list[dict[str, Any]]
    figures: Figures


def evaluate(
    policy: Policy, sequences: Sequence[tuple[int, ...]], config: ProgramConfig, *, step: int, split: str,
    stopping: Callable[[], bool] = lambda: False,
) -> HeldOut:  # fmt: skip
    """Have the policy write one greedy program for each sequence, and judge them in one request.

    stopping  whether an outage is no longer worth waiting for
    raises    NoAnswer after max_outages tries: an evaluation is whole or it is none
    """
    executor = Executor(connect(config), config.limits)
    texts = write_programs(policy, sequences, max_tokens=config.max_tokens)
    written = [some[0] for some in texts]
    found = run(patiently(lambda: judge(sequences, written, executor, config.rules), config, stopping))
    measured = figures(sequences, found)
    rows = [{"step": step, "split": split, "place": i, **r._asdict()} for i, r in enumerate(found)]
    kept = {name: value for name, value in measured._asdict().items() if name in Evaluation._fields}
    return HeldOut(Evaluation(step=step, split=split, **kept), rows, measured)


def summary_of(
    trained: HeldOut, untrained: Evaluation, truth_bits: float | None, config: ProgramConfig,
    seconds: dict[str, float],
) -> dict[str, Any]:  # fmt: skip
    """Return what summary.json holds.

    truth_bits  of the shortened ground truth per sequence, where it is known
    """
    after = trained.evaluation
    return {
        "channel": "program",
        "seed": config.seed,
        "step": trained.evaluation.step,
        "heldout": trained.figures.heldout,
        "untrained": {k: v for k, v in untrained._asdict().items() if k not in ("step", "split")},
        "ground_truth": {
            "bits_per_sequence": truth_bits,
            "gap_closed": _closed(untrained.bits_per_sequence, after.bits_per_sequence, truth_bits),
            "gap_closed_alone": _closed(untrained.bits_alone, after.bits_alone, truth_bits),
        },
        "seconds": {name: round(value, 3) for name, value in seconds.items()},
    }


def _closed(before: float | None, after: float | None, truth: float | None) -> float | None:
    if before is None or after is None or truth is None or before <= truth:
        return None
    return (before - after) / (before - truth)
