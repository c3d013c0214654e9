"""From the rollouts of one step to its lines in metrics.jsonl and episodes.jsonl, and the live line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from trainer.channels.program.reward_function import Batch

# From TRL's names to ours. Without an entropy bonus it logs no policy loss beside the loss: they are one.
RENAMED = {
    "kl": "kl", "entropy": "entropy", "loss": "loss", "policy_loss": "policy_loss", "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
}  # fmt: skip
EXECUTABLE = ("solved", "wrong")


def step_row(batches: Sequence[Batch], sequences: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the figures of one step's batches, of all ranks together; with several updates to a batch, a
    step may have none."""
    pairs = [
        (rollout, len(sequences[place]))
        for batch in batches
        for rollout, place in zip(batch.rollouts, batch.places, strict=True)
    ]
    row: dict[str, Any] = {
        "sandbox/requests": sum(batch.requests for batch in batches),
        "time/sandbox_s": max((batch.sandbox_s for batch in batches), default=0.0),
    }
    if not pairs:
        return row
    rewards, solved = [r.reward for r, _ in pairs], [(r, n) for r, n in pairs if r.solved]
    lines = [credit for batch in batches for own in batch.advantages for credit in own]
    row |= {
        "reward/mean": fmean(rewards), "reward/std": pstdev(rewards), "accuracy": len(solved) / len(pairs),
        "executable": fmean(r.outcome in EXECUTABLE for r, _ in pairs),
        "program/lines": fmean(r.steps for r, _ in pairs), "advantage/std": pstdev(lines) if lines else 0.0,
        # Failed programs count as the bare sequence; the evaluation's figure has the flags and all else.
        "compression_rate": sum(min(r.bits, 8 * n) if r.solved else 8 * n for r, n in pairs)
        / sum(8 * n for _, n in pairs),
    }  # fmt: skip
    if solved:
        row["program/bits"] = fmean(r.bits for r, _ in solved)
        row["program/bits_per_byte"] = sum(r.bits for r, _ in solved) / sum(n for _, n in solved)
    return row


def episode_rows(step: int, batches: Sequence[Batch]) -> list[dict[str, Any]]:
    """Return one line of episodes.jsonl per program, with the credit of each of its lines."""
    return [
        {
            "step": step, "place": place, **rollout._asdict(),
            "credit": [round(value, 6) for value in credit],
        }
        for batch in batches
        for place, rollout, credit in zip(batch.places, batch.rollouts, batch.advantages, strict=True)
    ]  # fmt: skip


def live_line(step: int, steps: int, row: Mapping[str, Any]) -> str:
    """Return the line a person watches."""

    def figure(name: str, form: str) -> str:
        return format(row[name], form) if row.get(name) is not None else "-"

    return (
        f"step {step:>{len(str(steps))}}/{steps}  reward {figure('reward/mean', '7.3f')}  "
        f"solved {figure('accuracy', '5.3f')}  bits/byte {figure('program/bits_per_byte', '5.2f')}  "
        f"rate {figure('compression_rate', '5.3f')}  {figure('time/step_s', '.2f')} s"
    )
