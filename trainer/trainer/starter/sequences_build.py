"""The recipe of the starter's sequence coder: a tiny policy, trained from scratch on generated pairs, on CPU.

    python -m trainer.starter.sequences_build                 77 minutes on two slow cores
    python -m trainer.starter.sequences_build --resume        goes on where it was ended
    python -m trainer.starter.sequences_build --steps 2000 --out /tmp/coder     a small one, to look at

It sees the runs of a sequence and writes its program. Half of the programs only say these runs, which is
right for every sequence; the others are the generator's, shortened. So REINFORCE finds both, and something to
choose. No sequence of the test or validation split is ever drawn. Weights are kept as float16.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer.channels.program.warm_start import TRANSCRIBED, Pairs, Stage, supervise
from trainer.starter.muon import MuonAdamW
from trainer.starter.sequences_card import write_card
from trainer.starter.sequences_tokenizer import make_tokenizer

CODER_DIR = Path(__file__).resolve().parents[2] / "starter" / "program"


class Recipe(NamedTuple):
    """Size and training. Small, as every step of REINFORCE pays for it."""

    width: int = 128
    inner: int = 352
    layers: int = 6
    heads: int = 4
    steps: int = 7_000
    learning_rate: float = 3e-3
    muon_rate: float = 6e-3
    transcribed: float = TRANSCRIBED
    threads: int = 2


RECIPE = Recipe()
# Short sequences first: what is hard to learn is to copy at all, and it is learned soonest from short ones.
STAGES = [
    Stage(0.03, 24, 1536), Stage(0.08, 48, 2048), Stage(0.4, 64, 3072), Stage(1.0, 128, 4096),
]  # fmt: skip


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build an untrained model of the recipe's size, its input and output embeddings tied."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=recipe.width, intermediate_size=recipe.inner,
            num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads, max_position_embeddings=2048, tie_word_embeddings=True,
            bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def build(recipe: Recipe, out: Path, work: Path, *, seed: int, resume: bool) -> dict[str, float]:
    """Train and save the coder.

    work     a folder for checkpoints; it may be deleted afterwards
    returns  {"loss", "seconds", "steps", "parameters"}
    """
    torch.manual_seed(seed)
    torch.set_num_threads(recipe.threads)
    tokenizer = make_tokenizer()
    model = new_model(recipe, tokenizer)
    pairs = Pairs(tokenizer, STAGES, recipe.steps, seed=seed, transcribed=recipe.transcribed)
    found = supervise(
        model, pairs, work, learning_rate=recipe.learning_rate, seed=seed, cpu=True, resume=resume, workers=1,
        optimizer=MuonAdamW(model, muon_rate=recipe.muon_rate, adamw_rate=recipe.learning_rate),
    )  # fmt: skip
    model.generation_config.do_sample = False
    out.mkdir(parents=True, exist_ok=True)
    model.to(torch.float16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    figures = {**found, "parameters": sum(p.numel() for p in model.parameters())}
    write_card(recipe._asdict(), figures, seed, out)
    return figures


def main(argv: list[str] | None = None) -> int:
    """Run the recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=CODER_DIR, help="where the weights go")
    parser.add_argument("--work", type=Path, default=Path("build") / "coder", help="folder of checkpoints")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --work")
    parser.add_argument("--steps", type=int, default=RECIPE.steps)
    parser.add_argument("--threads", type=int, default=RECIPE.threads)
    args = parser.parse_args(argv)
    recipe = RECIPE._replace(steps=args.steps, threads=args.threads)
    print(
        json.dumps(
            {"model": "coder", **build(recipe, args.out, args.work, seed=args.seed, resume=args.resume)}
        )
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
