"""Load a student and have it write messages, greedy or sampled, the way the trainer counts them.

torch, transformers and peft are imported inside the functions: to read a report nobody needs them. A
student is only ever asked; nothing here trains one.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.channels.text.prompts import encoder_messages
from trainer.checkpoints import weights_damage
from trainer.measure.record import Message
from trainer.pace import Pace
from trainer.tasks.task import Task

if TYPE_CHECKING:
    from trainer.channels.text.student import Precision

ADAPTER = "adapter_config.json"
GENERAL_TOKENIZERS = ("TokenizersBackend", "PreTrainedTokenizerFast")
# Letters and symbols that Unicode calls visible and every font draws as nothing.
BLANKS = "\u115f\u1160\u2800\u3164\uffa0"


@dataclass(frozen=True)
class Student:
    """A policy ready to write: its model in eval mode, its tokenizer padding on the left."""

    name: str
    model: Any
    tokenizer: Any

    def count(self, text: str) -> int:
        """Return the tokens of a text, special tokens excluded."""
        return len(self.tokenizer.encode(text, add_special_tokens=False))

    def cut(self, text: str, tokens: int) -> str:
        """Return the text's first so many tokens, as text."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)[:tokens]
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, text: str) -> list[int]:
        """Return the token ids of a text, special tokens excluded: the words of the student's language."""
        return list(self.tokenizer.encode(text, add_special_tokens=False))


def has_visible(text: str) -> bool:
    """Return whether a reader would see anything at all: no blanks, controls, formats or lone marks."""
    return any(unicodedata.category(c)[0] in "LNPS" and c not in BLANKS for c in text)


def load_student(
    source: str | Path, *, base: str | Path | None = None, precision: Precision | None = None
) -> Student:
    """Load a student from a folder or a hub name: a full model, or a LoRA adapter on its base.

    source     model folder, checkpoint folder or hub name
    base       the model an adapter belongs to; the one its config names if not given
    precision  device, dtype and quantisation, as it was trained; bfloat16 on CUDA, else float32, if not given
    raises     ValueError if the folder holds neither a model nor an adapter, or weights that are damaged
    """
    import torch
    from transformers import AutoModelForCausalLM

    folder = Path(source)
    if reason := weights_damage(folder):
        raise ValueError(f"{reason}; take another checkpoint (--checkpoint last, or a step)")
    adapter = _adapter_config(folder)
    if folder.is_dir() and not adapter and not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds neither config.json nor {ADAPTER}; name a model or a checkpoint folder"
        )
    root = str(base or adapter["base_model_name_or_path"]) if adapter else str(source)
    device = precision.device if precision else "cuda" if torch.cuda.is_available() else "cpu"
    dtype = precision.dtype if precision else torch.bfloat16 if device == "cuda" else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(root, dtype=dtype, **_quantised(precision))
    if adapter:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(folder))
    if precision is None or not precision.nf4:
        model = model.to(device)
    own = adapter is None or (folder / "tokenizer_config.json").is_file()
    return Student(str(source), model.eval(), load_tokenizer(str(source) if own else root))


def load_tokenizer(source: str) -> Any:
    """Load the tokenizer the files name, padding on the left; without a padding token it pads with the end.

    transformers 5 rebuilds any tokenizer beside a Qwen2 model as Qwen2's own, although its file names the
    general class: it splits words otherwise, and adds an <|endoftext|> that the model has no row for.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    general = get_tokenizer_config(source).get("tokenizer_class") in GENERAL_TOKENIZERS
    kind: Any = PreTrainedTokenizerFast if general else AutoTokenizer
    tokenizer = kind.from_pretrained(source, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _quantised(precision: Precision | None) -> dict[str, Any]:
    """Return what from_pretrained needs for 4-bit weights, as in training; nothing without them."""
    if precision is None or not precision.nf4:
        return {}
    from transformers import BitsAndBytesConfig

    four_bits = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=precision.dtype,
    )
    return {"quantization_config": four_bits, "device_map": {"": precision.device}}


def _adapter_config(folder: Path) -> dict[str, Any] | None:
    """Return the adapter's own description, or None if the folder holds no adapter."""
    file = folder / ADAPTER
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def encode_tasks(
    student: Student,
    tasks: Sequence[Task],
    *,
    max_new_tokens: int = 256,
    temperature: float = 0.0,
    seed: int = 0,
    batch_size: int = 32,
    told: str = "",
) -> list[Message]:
    """Have the student write one message per task.

    temperature  0 is greedy; above, sampling is seeded and leaves torch's own random state as it was
    batch_size   prompts of one forward pass; sorted by length, so that little of it is padding
    told         what to call this on stderr, with how far it is; empty says nothing
    returns      messages [B] in the order of the tasks; one without an end is `truncated`, one that shows
                 nothing is `invisible`
    """
    import torch

    prompts = [_prompt(student, task) for task in tasks]
    order = sorted(range(len(tasks)), key=lambda i: len(prompts[i]))
    messages: list[Message | None] = [None] * len(tasks)
    settings = _generation(student, max_new_tokens, temperature)
    cuda = [student.model.device] if student.model.device.type == "cuda" else []
    pace = Pace(told, len(tasks))
    with torch.random.fork_rng(devices=cuda), torch.inference_mode():
        torch.manual_seed(seed)
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            inputs = student.tokenizer(
                [prompts[i] for i in places],
                return_tensors="pt",
                padding=True,
                padding_side="left",
                add_special_tokens=False,
                return_token_type_ids=False,
            ).to(student.model.device)
            written = student.model.generate(**inputs, generation_config=settings)
            for place, row in zip(places, written[:, inputs["input_ids"].shape[1] :].tolist(), strict=True):
                messages[place] = _message(student, row, settings.eos_token_id)
            if told and len(tasks) > batch_size:
                pace.add(len(places))
    return [message for message in messages if message is not None]


def _prompt(student: Student, task: Task) -> str:
    """Return what the student continues: the encoder's conversation in the tokenizer's chat template."""
    return str(
        student.tokenizer.apply_chat_template(
            encoder_messages(task), tokenize=False, add_generation_prompt=True
        )
    )


def _generation(student: Student, max_new_tokens: int, temperature: float) -> Any:
    """Return generation settings that nothing in the model's own defaults can change.

    Instruct models ship a repetition penalty and top-k; the trainer samples without, so must this.
    """
    from transformers import GenerationConfig

    own = student.model.generation_config.eos_token_id
    ends = [own] if isinstance(own, int) else list(own or [])
    sampling = (
        {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0} if temperature else {}
    )
    return GenerationConfig(
        **{"do_sample": False, **sampling},
        max_new_tokens=max_new_tokens,
        repetition_penalty=1.0,
        pad_token_id=student.tokenizer.pad_token_id,
        bos_token_id=student.tokenizer.bos_token_id,
        eos_token_id=sorted({student.tokenizer.eos_token_id, *ends}),
    )


def _message(student: Student, row: list[int], ends: list[int]) -> Message:
    """Cut one row at its end token, and count what is left both ways: as written, and as sent."""
    end = next((i for i, token in enumerate(row) if token in ends), None)
    kept = row if end is None else row[:end]
    text = str(
        student.tokenizer.decode(kept, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    ).strip()
    tokens = max(len(kept), student.count(text))
    if end is None:
        return Message(text, tokens, "truncated")
    return Message(text, tokens, "" if has_visible(text) else "invisible")
