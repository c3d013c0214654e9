"""Load a policy, and have it write programs: greedy or sampled. Never executes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from trainer.channels.program.prompts import policy_messages
from trainer.channels.sampling import sample
from trainer.channels.text.student import Precision, precision
from trainer.config import ConfigError
from trainer.config_program import STARTER, Model, ProgramConfig
from trainer.measure.students import ADAPTER, load_tokenizer

# Prompts that are padded to one length; programs of one forward pass.
BATCH = 128
# The folder of a run that holds what its warm start made of the model.
WARM = "warm-start"


class Policy(NamedTuple):
    """A model that writes programs, its tokenizer, and what samples from it."""

    model: Any
    tokenizer: Any
    precision: Precision
    sampler: Callable[..., list[list[int]]] = sample

    @property
    def ends(self) -> list[int]:
        """The tokens that end a program."""
        own = self.model.generation_config.eos_token_id
        more = [own] if isinstance(own, int) else list(own or [])
        return sorted({self.tokenizer.eos_token_id, *more})


def load_policy(config: Model, source: str | Path | None = None) -> Policy:
    """Load the policy of a run.

    source  a checkpoint folder in place of the config's model: whole weights, or an adapter on that model
    raises  ConfigError if it is no model, or its tokenizer has no chat template or end token
    """
    chosen = precision(config.models)
    folder = Path(source or config.source)
    adapter = (folder / ADAPTER).is_file()
    if adapter and source is None:
        raise ConfigError(
            f"model_name={config.model_name!r} is an adapter; give the run it is of, or a whole model"
        )
    root = config.source if adapter or source is None else str(source)
    if config.model_name == STARTER and not (Path(config.source) / "config.json").is_file():
        raise ConfigError(
            f"model_name=starter: no weights in {config.source}; build them with "
            "`python -m trainer.starter.sequences_build`"
        )
    try:
        tokenizer = load_tokenizer(str(root))
        model: Any = AutoModelForCausalLM.from_pretrained(root, dtype=chosen.dtype, **_quantised(config))
        if adapter:
            from peft import PeftModel

            model = PeftModel.from_pretrained(model, str(folder))
    except (OSError, ValueError, ImportError) as error:
        raise ConfigError(f"model_name={root!r} cannot be loaded: {error}") from error
    if tokenizer.chat_template is None or tokenizer.eos_token_id is None:
        raise ConfigError(f"model_name={root!r}: its tokenizer lacks a chat template or an end token")
    return Policy(model, tokenizer, chosen)


def warmed(config: ProgramConfig, run: Path) -> ProgramConfig:
    """Return a run's settings with the model its REINFORCE begins with: what a warm start made of it, if any.

    run  its folder, wherever that lies by now
    """
    return config.model_copy(update={"model_name": str(run / WARM)}) if config.warm_start else config


def load_trained(config: ProgramConfig, run: Path, checkpoint: Path) -> Policy:
    """Load a checkpoint of a run: whole weights, or an adapter on the model that its REINFORCE began with.

    raises  ConfigError as load_policy does, and if that model is not in the run folder any more
    """
    adapter = (checkpoint / ADAPTER).is_file()
    if adapter and config.warm_start and not (run / WARM / "config.json").is_file():
        raise ConfigError(
            f"{checkpoint}: an adapter on the run's warm-started model, and there is none in {run / WARM}; "
            "put that folder back"
        )
    return load_policy(warmed(config, run), checkpoint)


def _quantised(config: Model) -> dict[str, Any]:
    if not config.use_8bit_quantization:
        return {}
    from importlib.util import find_spec

    if find_spec("bitsandbytes") is None:
        raise ConfigError(
            "use_8bit_quantization=True: bitsandbytes is not installed; `pip install psuedoptimal[cuda]`"
        )
    device = precision(config.models).device
    return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True), "device_map": {"": device}}


def prompt_of(tokenizer: Any, sequence: Sequence[int]) -> str:
    """Return what a policy continues, in its own chat template."""
    return str(
        tokenizer.apply_chat_template(policy_messages(sequence), tokenize=False, add_generation_prompt=True)
    )


def write_programs(
    policy: Policy, sequences: Sequence[Sequence[int]], *, samples: int = 1, temperature: float = 0.0,
    max_tokens: int = 512, seed: int = 0, batch: int = BATCH,
) -> list[list[str]]:  # fmt: skip
    """Have the policy write programs. Its mode and torch's own random state are left as they were.

    sequences    [B]
    samples      programs for each; with a temperature of 0 they would be all alike
    temperature  0 is greedy
    batch        programs of one forward pass; sequences go in by length, so that little of it is padding
    returns      texts [B][samples]
    """
    model, tokenizer = policy.model, policy.tokenizer
    prompts = [prompt_of(tokenizer, sequence) for sequence in sequences]
    encoded = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda i: len(encoded[i]))
    each = samples if temperature else 1
    texts: list[list[str]] = [[] for _ in prompts]
    per_pass = max(1, batch // samples)
    cuda = [model.device] if model.device.type == "cuda" else []
    training = model.training
    model.eval()
    try:
        with torch.random.fork_rng(devices=cuda):
            torch.manual_seed(seed)
            for start in range(0, len(order), per_pass):
                places = order[start : start + per_pass]
                found = policy.sampler(
                    model, [encoded[i] for i in places for _ in range(each)], temperature=temperature,
                    max_tokens=max_tokens, ends=policy.ends, pad=tokenizer.pad_token_id,
                )  # fmt: skip
                written = tokenizer.batch_decode(
                    found, skip_special_tokens=True, clean_up_tokenization_spaces=False
                )
                for n, place in enumerate(places):
                    texts[place] = written[n * each : (n + 1) * each] * (samples // each)
    finally:
        model.train(training)
    return texts
