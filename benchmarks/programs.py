"""What our sampling, packing and optimizer of the program channel save, beside transformers, TRL and torch.

    python benchmarks/programs.py

Both ways in turns, in one run, on the starter coder: 16 programs for each of 16 sequences sampled, and then
their log-probabilities with the backward pass, as a step of REINFORCE computes them. Last, a step of Muon on
its matrices, as the recipe takes.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from transformers import GenerationConfig
from trl.trainer.utils import add_fused_lm_head

from trainer.channels.packing import log_probabilities
from trainer.channels.program.policy import Policy, load_policy, prompt_of
from trainer.channels.sampling import sample
from trainer.config_program import ProgramConfig
from trainer.starter.muon import Muon, hidden
from trainer.tasks.sequences import generate

SEQUENCES, PROGRAMS, TEMPERATURE, MAX_TOKENS = 16, 16, 0.7, 150


def by_generate(
    policy: Policy, prompts: list[list[int]], temperature: float = TEMPERATURE, max_tokens: int = MAX_TOKENS
) -> list[list[int]]:
    """Sample as TRL does: `generate`, one row for each program."""
    settings = GenerationConfig(
        do_sample=True, temperature=temperature, top_k=0, max_new_tokens=max_tokens,
        pad_token_id=policy.tokenizer.pad_token_id, eos_token_id=policy.ends,
    )  # fmt: skip
    inputs = policy.tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
    with torch.no_grad():
        rows = policy.model.generate(**inputs, generation_config=settings)
    return [row[inputs["input_ids"].shape[1] :].tolist() for row in rows]


def by_sample(
    policy: Policy, prompts: list[list[int]], temperature: float = TEMPERATURE, max_tokens: int = MAX_TOKENS
) -> list[list[int]]:
    """Sample as our channels do."""
    return sample(
        policy.model, prompts, temperature=temperature, max_tokens=max_tokens, ends=policy.ends,
        pad=policy.tokenizer.pad_token_id,
    )  # fmt: skip


def batch(policy: Policy, prompts: list[list[int]], programs: list[list[int]]) -> tuple[Any, Any, int]:
    """Return ids and mask [B, P + T] of prompts and programs, and T."""
    pad, wide, long = policy.tokenizer.pad_token_id, max(map(len, prompts)), max(map(len, programs))
    ids = [
        [pad] * (wide - len(p)) + p + q + [pad] * (long - len(q))
        for p, q in zip(prompts, programs, strict=True)
    ]
    mask = [
        [0] * (wide - len(p)) + [1] * (len(p) + len(q)) + [0] * (long - len(q))
        for p, q in zip(prompts, programs, strict=True)
    ]
    return torch.tensor(ids), torch.tensor(mask), long


def by_rows(model: Any, ids: Any, mask: Any, keep: int) -> Any:
    """Log-probabilities as TRL computes them: one row for each program."""
    labels = ids.masked_fill(mask == 0, -100)
    labels[:, :-keep] = -100
    return model(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True).log_probs[:, -keep:]


def by_packing(model: Any, ids: Any, mask: Any, keep: int) -> Any:
    """Log-probabilities as our channels compute them."""
    return log_probabilities(model, ids, mask, keep, dtype=model.dtype, entropy=False)[0]


def compare(
    title: str, names: tuple[str, str], ways: tuple[Callable[[], Any], Callable[[], Any]], rounds: int
) -> None:
    """Time two ways in turns, and print their medians and the ratio."""
    taken: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for way, seconds in zip(ways, taken, strict=True):
            started = time.perf_counter()
            way()
            seconds.append(time.perf_counter() - started)
    one, two = (median(seconds) for seconds in taken)
    print(f"{title}: {names[0]} {one:.2f} s, {names[1]} {two:.2f} s, ratio {one / two:.1f}")


def main() -> int:
    """Measure both parts for both lengths."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    policy = load_policy(ProgramConfig(model_name="starter", device="cpu"))
    add_fused_lm_head(policy.model, temperature=TEMPERATURE)
    encode: Any = policy.tokenizer
    for length in (64, 128):
        pairs = generate("train", SEQUENCES, 5, max_length=length)
        prompts = [
            encode(prompt_of(encode, pair.sequence), add_special_tokens=False)["input_ids"]
            for pair in pairs
            for _ in range(PROGRAMS)
        ]
        compare(
            f"up to {length} bytes, sampled", ("generate", "sample"),
            (lambda p=prompts: by_generate(policy, p), lambda p=prompts: by_sample(policy, p)), args.rounds,
        )  # fmt: skip
        torch.manual_seed(0)
        ids, mask, keep = batch(policy, prompts, by_sample(policy, prompts))

        def backward(way: Callable[..., Any], ids: Any = ids, mask: Any = mask, keep: int = keep) -> None:
            for rows in range(0, len(ids), PROGRAMS):
                part = slice(rows, rows + PROGRAMS)
                way(policy.model, ids[part], mask[part], keep).sum().backward()
            policy.model.zero_grad()

        compare(
            f"up to {length} bytes, backward pass", ("one row each", "packed"),
            (lambda: backward(by_rows), lambda: backward(by_packing)), args.rounds,
        )  # fmt: skip
    inner = hidden(policy.model)
    for matrix in inner:
        matrix.grad = torch.randn_like(matrix)
    theirs = torch.optim.Muon(inner, adjust_lr_fn="match_rms_adamw")
    ours = Muon(inner, lr=1e-3)
    compare("a step of Muon", ("torch's", "ours"), (theirs.step, ours.step), args.rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
