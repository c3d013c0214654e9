"""The model card of the sequence coder: exactly how the weights were made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def write_card(recipe: Mapping[str, float], figures: Mapping[str, float], seed: int, out: Path) -> None:
    """Write README.md beside the weights.

    recipe   size and training settings
    figures  what the training measured
    """
    rows = "\n".join(f"| {name} | {value} |" for name, value in {**recipe, **figures, "seed": seed}.items())
    out.joinpath("README.md").write_text(
        f"""---
license: mit
library_name: transformers
tags: [psuedoptimal, starter]
---
# Starter sequence coder

The policy that Psuedoptimal's program channel begins with: a Llama-architecture model trained from scratch on
a CPU to write a program of the sequence DSL for a sequence of bytes.

**Made by** `python -m trainer.starter.sequences_build --seed {seed}`; nothing else went into it.

**Data**: pairs drawn by `trainer/trainer/tasks/sequences.py`, train split only, each drawn anew: the runs of
a sequence (`trainer/trainer/channels/program/notation.py`) -> a program. Half of the programs say the runs
and no more (`trainer/trainer/tasks/sequences_transcribe.py`), the others are the generator's, shortened. No
reward was ever seen: this is the starting point that figures are compared with.

| setting or figure | value |
|---|---|
{rows}

**Not for** sequences that no short program of the DSL makes, such as text: it can only write those down.
""",
        encoding="utf-8",
    )
