"""The sequence coder's tokenizer: a fixed vocabulary, one token for each number, operation and line's end.

It knows the notation of sequences and programs as `Program.__str__` writes them, and nothing else. Commas,
brackets and spaces carry nothing there, so they are no tokens of their own; decoding sets them again.
"""

from __future__ import annotations

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from trainer.channels.program.notation import MAX_STEP
from trainer.channels.program.program import OPERATIONS, PREDICATES

USER, ASSISTANT, END, PAD, UNKNOWN = "<|sequence|>", "<|program|>", "<|end|>", "<|pad|>", "<|unknown|>"
NUMBERS, LINES = 512, 48
_PIECE = (
    r"\]?\)\n(?:sequence_\d+|output) =|\]?\)\n|\n|(?:sequence_\d+|output) =|[a-z_]+\(\[?|sequence_\d+"
    r"|is_[a-z_]+|\.\.-?\d*|-?\d+|[*{}/]"
)
_SPACING = ((r"(?<=[(\[]) ", ""), (r" (?=[)\]\n])", ""), (r"(?<=[a-z0-9]) (?=[a-z0-9-])", ", "))
# The runs are the sequence; a model of this size reads neither instructions nor the bare numbers.
_TEMPLATE = (
    "{%- for m in messages -%}"
    "{%- if m.role == 'user' -%}{{ '<|sequence|>' + m.content.split('Runs: ')[-1] + '<|program|>' }}"
    "{%- elif m.role == 'assistant' -%}{{ m.content + '<|end|>' }}{%- endif -%}"
    "{%- endfor -%}"
)


def vocabulary() -> list[str]:
    """Return every token, in the order of their ids."""
    names = [f"sequence_{i}" for i in range(1, LINES + 1)]
    starts = [f"{name} =" for name in (*names, "output")]
    ends = [f"{close}\n{start}".rstrip(" ") for close in (")", "])") for start in (*starts, "")]
    calls = [f"{name}(" if name != "set_list" else "set_list([" for name in OPERATIONS]
    steps = [".."] + [f"..{i}" for i in range(-MAX_STEP, MAX_STEP + 1) if i not in (0, 1)]
    signs = ["*", "{", "/", "}", "\n"]
    special = [PAD, END, USER, ASSISTANT, UNKNOWN]
    return [
        *special, *map(str, range(NUMBERS)), *signs, *steps, *calls, *PREDICATES, *names, *starts, *ends
    ]  # fmt: skip


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer, with a chat template that shows a policy only the runs."""
    tokens = {token: i for i, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.WordLevel(tokens, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_PIECE), "isolated"),
        pre_tokenizers.Split(Regex(r"\A[, ]+\z"), "removed"),
    ])  # fmt: skip
    tokenizer.decoder = decoders.Sequence([
        decoders.WordPiece(prefix="##", cleanup=False),
        decoders.Fuse(),
        *(decoders.Replace(Regex(pattern), content) for pattern, content in _SPACING),
    ])  # fmt: skip
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, unk_token=UNKNOWN, padding_side="left",
        additional_special_tokens=[USER, ASSISTANT], chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False, model_max_length=2048,
    )  # fmt: skip
