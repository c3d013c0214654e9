"""The recipe: trains the starter's tiny generator and tiny student from generated tasks, on CPU.

    python -m trainer.starter.build                 both, about half an hour on two cores
    python -m trainer.starter.build --only student
    python -m trainer.starter.build --only second --seed 2 --second-out runs/second-generator

The generator learns to decode complete, abbreviated and damaged code to code. The student learns to put
a description into code, slightly damaged. Neither ever meets a composition of the validation or test
split. The second generator has another seed, size and tokenizer, and nothing is trained against it: it
shows whether messages are a language or a trick of the first one. The same seed and library versions give
the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Trainer, TrainingArguments

from trainer.channels.text.prompts import encoder_messages
from trainer.starter.card import write_card
from trainer.starter.shorthand import MarkedTokens, shorten, tokenize_marked
from trainer.starter.tokenizer import train_byte_tokenizer, train_tokenizer
from trainer.tasks.starter import StarterTask, generate

ROOT = Path(__file__).resolve().parents[3]
GENERATOR_DIR = ROOT / "decoder-service" / "starter"
STUDENT_DIR = ROOT / "trainer" / "starter"


class Recipe(NamedTuple):
    """One model's size and training. Small, as every GRPO step pays for it."""

    width: int
    inner: int
    layers: int
    heads: int
    steps: int
    batch: int
    learning_rate: float
    tasks: int


GENERATOR = Recipe(
    width=128, inner=320, layers=4, heads=4, steps=1400, batch=64, learning_rate=3e-3, tasks=30000
)
STUDENT = Recipe(
    width=128, inner=256, layers=3, heads=4, steps=1000, batch=64, learning_rate=3e-3, tasks=30000
)
SECOND = Recipe(width=96, inner=256, layers=3, heads=4, steps=800, batch=48, learning_rate=4e-3, tasks=20000)


class Pairs(torch.utils.data.Dataset[dict[str, Any]]):
    """Prompt and answer pairs, each damaged in its own way.

    what    "generator": shorthand -> code; "student": description -> code, slightly damaged
    spoken  the tokenizer whose words messages are made of; the model's own if not given
    item    {"input_ids" [T], "labels" [T]} with -100 where the prompt stands
    """

    def __init__(
        self, what: str, tasks: list[StarterTask], tokenizer: PreTrainedTokenizerFast, seed: int,
        spoken: PreTrainedTokenizerFast | None = None,
    ) -> None:  # fmt: skip
        self.what, self.tasks, self.tokenizer, self.seed = what, tasks, tokenizer, seed
        self.spoken = spoken or tokenizer
        self.tokens: list[MarkedTokens] = [tokenize_marked(made.marked, self.spoken) for made in tasks]

    def __len__(self) -> int:
        return len(self.tasks)

    def __getitem__(self, i: int) -> dict[str, Any]:
        rng = random.Random(f"{self.seed}/{i}")
        tokens, task = self.tokens[i], self.tasks[i].task
        if self.what == "generator":
            message = self.spoken.decode(shorten(tokens, generator_level(rng), rng)).strip()
            chat, answer = [{"role": "user", "content": message}], self._ids(task.reference)
        else:
            chat, answer = encoder_messages(task), shorten(tokens, student_level(rng), rng)
        text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        prompt = self._ids(text)
        end = [self.tokenizer.eos_token_id]
        return {"input_ids": prompt + answer + end, "labels": [-100] * len(prompt) + answer + end}

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def generator_level(rng: random.Random) -> float:
    """How short the shorthand is that the generator reads: complete code now and then, every level often."""
    return 0.0 if rng.random() < 0.1 else rng.random() ** 0.6


def student_level(rng: random.Random) -> float:
    """How damaged the code is that the student writes before any reward: mostly not."""
    return 0.0 if rng.random() < 0.6 else rng.uniform(0.0, 0.5)


def collate(items: list[dict[str, Any]], pad: int) -> dict[str, torch.Tensor]:
    """Pad a batch on the right. returns input_ids, labels, attention_mask, each [B, T]"""
    longest = max(len(item["input_ids"]) for item in items)
    ids = torch.full((len(items), longest), pad)
    labels = torch.full((len(items), longest), -100)
    mask = torch.zeros((len(items), longest), dtype=torch.long)
    for row, item in enumerate(items):
        n = len(item["input_ids"])
        ids[row, :n] = torch.tensor(item["input_ids"])
        labels[row, :n] = torch.tensor(item["labels"])
        mask[row, :n] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build an untrained model of the recipe's size, its input and output embeddings tied."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=recipe.width, intermediate_size=recipe.inner,
            num_hidden_layers=recipe.layers, num_attention_heads=recipe.heads,
            num_key_value_heads=recipe.heads,
            max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip


def train(
    what: str, recipe: Recipe, tokenizer: PreTrainedTokenizerFast, out: Path, seed: int,
    spoken: PreTrainedTokenizerFast | None = None,
) -> dict[str, float]:  # fmt: skip
    """Train one model from scratch and save it in Hugging Face format.

    what     "generator" or "student"
    spoken   the tokenizer whose words messages are made of; the model's own if not given
    returns  {"loss", "seconds", "parameters"}
    """
    torch.manual_seed(seed)
    pairs = Pairs(what, generate("train", recipe.tasks, seed), tokenizer, seed, spoken)
    model = new_model(recipe, tokenizer)
    pad = int(tokenizer.pad_token_id)  # type: ignore[arg-type]
    began = time.monotonic()
    trainer = Trainer(
        model=model, train_dataset=pairs, data_collator=lambda items: collate(items, pad),
        args=TrainingArguments(
            output_dir=str(out / "work"), max_steps=recipe.steps, per_device_train_batch_size=recipe.batch,
            learning_rate=recipe.learning_rate, lr_scheduler_type="cosine", warmup_steps=60,
            weight_decay=0.01,
            adam_beta2=0.98, max_grad_norm=1.0, logging_steps=100, save_strategy="no", report_to="none",
            seed=seed, use_cpu=True, remove_unused_columns=False, disable_tqdm=True, dataloader_num_workers=0,
        ),
    )  # fmt: skip
    result = trainer.train()
    model.generation_config.do_sample = False
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    return {
        "loss": round(result.training_loss, 4),
        "seconds": round(time.monotonic() - began, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
    }


def main(argv: list[str] | None = None) -> int:
    """Run the recipe."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=["generator", "student", "second"])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--generator-out", type=Path, default=GENERATOR_DIR)
    parser.add_argument("--student-out", type=Path, default=STUDENT_DIR)
    parser.add_argument("--second-out", type=Path, help="where --only second puts its weights")
    for name in ("steps", "width", "layers", "batch"):
        parser.add_argument(f"--{name}", type=int, help=f"in place of the recipe's {name}")
    args = parser.parse_args(argv)
    if (args.only == "second") != (args.second_out is not None):
        parser.error("--only second and --second-out belong together: it is built for a place of its own")
    texts = _texts()
    words = train_tokenizer(texts)
    shape = {name: found for name in ("steps", "width", "layers", "batch") if (found := getattr(args, name))}
    for name, recipe, out in (
        ("generator", GENERATOR, args.generator_out),
        ("student", STUDENT, args.student_out),
        ("second", SECOND, args.second_out),
    ):
        if name != args.only and (args.only or name == "second"):
            continue
        recipe = recipe._replace(**shape)
        out.mkdir(parents=True, exist_ok=True)
        second = name == "second"
        tokenizer = train_byte_tokenizer(texts) if second else words
        what = "generator" if second else name
        figures = train(what, recipe, tokenizer, out, args.seed, words if second else None)
        write_card(name, recipe._asdict(), figures, args.seed, out)
        print(json.dumps({"model": name, **figures}))
    return 0


def _texts() -> list[str]:
    """Return what both tokenizers are trained on."""
    seen = generate("train", 4000, 0)
    prompts = (encoder_messages(made.task)[-1]["content"] for made in seen)
    return [*prompts, *(made.task.reference for made in seen)]


if __name__ == "__main__":
    raise SystemExit(main())
