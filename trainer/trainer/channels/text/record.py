"""From the episodes of one step to its line in metrics.jsonl, the live line and the printed examples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

from trainer.channels.text.reward_function import Batch, Episode
from trainer.tasks.task import Task

WIDE, NARROW = 80, 40
# From TRL's names to ours.
RENAMED = {
    "kl": "kl",
    "entropy": "entropy",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "frac_reward_zero_std": "reward/flat_groups",
    "clip_ratio/region_mean": "clip_fraction",
}


def step_row(batches: Sequence[Batch]) -> dict[str, Any]:
    """Return the figures of one step's batches, of all ranks together.

    returns  {} for a step that reused an earlier step's messages
    """
    sampled = [episode for batch in batches for episode in batch.episodes]
    if not sampled:
        return {}
    episodes = [episode for episode in sampled if not episode.anchor]
    anchors = [episode for episode in sampled if episode.anchor]
    row: dict[str, Any] = {
        "message/tokens": fmean(e.tokens for e in episodes),
        "message/distinct": len({e.message for e in episodes}) / len(episodes),
        "time/decode_s": max(batch.decode_s for batch in batches),
        "time/sandbox_s": max(batch.sandbox_s for batch in batches),
        "reward/mean": fmean(e.reward for e in episodes),
        "reward/std": pstdev(e.reward for e in episodes),
        "pass_rate": fmean(e.passed for e in episodes),
        "ratio": fmean(e.reference_tokens / max(1, e.tokens) for e in episodes),
        "pass_rate_by_family": by_family(episodes),
    }
    if anchors:
        learnt = {e.task_id for e in episodes if e.passed}
        row["anchor/pass_rate"] = fmean(e.passed for e in anchors)
        row["anchor/used"] = fmean(e.passed and e.task_id not in learnt for e in anchors)
    for outcome in sorted({e.outcome for e in episodes}):
        row[f"verdict/{outcome}"] = sum(e.outcome == outcome for e in episodes) / len(episodes)
    return row


def by_family(episodes: Sequence[Episode]) -> dict[str, float]:
    """Return the pass rate of each family met; families without a name are left out."""
    families: dict[str, list[bool]] = defaultdict(list)
    for episode in episodes:
        if episode.family:
            families[episode.family].append(episode.passed)
    return {name: fmean(passed) for name, passed in sorted(families.items())}


def episode_rows(step: int, batches: Sequence[Batch]) -> list[dict[str, Any]]:
    """Return one line of episodes.jsonl per message."""
    return [{"step": step, **episode._asdict()} for batch in batches for episode in batch.episodes]


def live_line(step: int, steps: int, row: Mapping[str, Any]) -> str:
    """Return the line a person watches: reward, pass rate, tokens, ratio, seconds."""

    def figure(name: str, form: str) -> str:
        return format(row[name], form) if row.get(name) is not None else "-"

    return (
        f"step {step:>{len(str(steps))}}/{steps}  reward {figure('reward/mean', '7.3f')}  "
        f"pass {figure('pass_rate', '5.3f')}  tokens {figure('message/tokens', '5.1f')}  "
        f"ratio {figure('ratio', '5.2f')}  {figure('time/step_s', '.2f')} s"
    )


def examples(step: int, episodes: Sequence[Episode], tasks: Mapping[str, Task], n: int) -> str:
    """Return examples of one step as text: task, message, program, of different tasks, passed ones first."""
    chosen: dict[str, Episode] = {}
    for episode in sorted(episodes, key=lambda e: not e.passed):
        chosen.setdefault(episode.task_id, episode)
    lines = ["=" * WIDE, f"  ENCODING VISUALIZATION - Step {step}", "=" * WIDE, ""]
    for number, episode in enumerate(list(chosen.values())[:n], 1):
        lines += [
            f"--- Example {number} ---", f"TASK: {printable(tasks[episode.task_id].text)}", "",
            f"ENCODING ({episode.tokens} tokens):", "-" * NARROW,
            printable(episode.message), "-" * NARROW, "",
            f"EXPANDED PYTHON (from encoding only): {episode.outcome}", "-" * NARROW,
            printable(episode.program) or "(not decoded)", "-" * NARROW, "",
        ]  # fmt: skip
    return "\n".join([*lines[:-1], "=" * WIDE])


def printable(text: str, limit: int = 2000) -> str:
    """Return untrusted text for a terminal: control and invisible characters escaped, cut at `limit`."""
    shown = "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text[:limit]
    )
    return shown.strip("\n") + ("…" if len(text) > limit else "")
