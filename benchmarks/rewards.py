"""The starter world under each reward: held-out pass rate and tokens of the checkpoint each run would keep.

    python benchmarks/rewards.py --seeds 1 --out runs/rewards

Every run is the demo's (`starter-text.yaml`) but for the reward and its usual normalisation; a run takes
five minutes on two cores. Prints one table; the run folders stay for `psuedoptimal report`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

KINDS: dict[str, list[str]] = {
    "relative": [],
    "ratio": ["--reward=ratio", "--scale-rewards=group"],
    "log_ratio": ["--reward=log_ratio", "--scale-rewards=group"],
    "lagrangian": ["--reward=lagrangian", "--multiplier-rate=0.5"],
}


def main() -> int:
    """Train each kind with each seed and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", default=",".join(KINDS), help="by comma")
    parser.add_argument("--seeds", default="1", help="by comma")
    parser.add_argument("--out", type=Path, default=Path("runs/rewards"))
    parser.add_argument("--max-steps", type=int, default=200)
    args = parser.parse_args()
    rows = [
        measured(kind, seed, args.out, args.max_steps)
        for kind in args.kinds.split(",")
        for seed in args.seeds.split(",")
    ]
    print("| reward | seed | kept: pass rate | tokens | vs untrained | last: pass rate | tokens |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))
    return 0


def measured(kind: str, seed: str, out: Path, steps: int) -> str:
    """Train one run and return its row: the kept checkpoint on the test tasks, the last on validation's."""
    name = f"{kind}-seed{seed}-{time.strftime('%H%M%S')}"
    command = [sys.executable, "-m", "trainer.cli", "train", "text", "--config", "starter-text.yaml"]
    flags = [f"--runs={out}", f"--name={name}", f"--seed={seed}", f"--max-steps={steps}", "--examples=0"]
    subprocess.run([*command, *flags, *KINDS[kind]], check=True, stdout=subprocess.DEVNULL)
    held = json.loads((out / name / "summary.json").read_text())["heldout"]
    lines = (out / name / "evaluations.jsonl").read_text().splitlines()
    last = [row for row in map(json.loads, lines) if row["split"] == "validation"][-1]
    return (
        f"| {kind} | {seed} | {held['pass_rate']:.3f} | {held['tokens_per_message']:.1f} "
        f"| {held['compression_vs_untrained']:.2f}x | {last['pass_rate']:.3f} | {last['tokens']:.1f} |"
    )


if __name__ == "__main__":
    raise SystemExit(main())
