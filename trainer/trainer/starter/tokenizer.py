"""The starter models' tokenizers. The first: one token for each word, number and sign of the starter world.

Spaces between words carry nothing in that world, so they are no part of a token: two words can never run
together in a message, and what is sent has the same tokens when it is read. Decoding sets the spaces as
PEP 8 does. Characters outside ASCII become the unknown token. The second reads bytes, as large models do.
"""

from __future__ import annotations

import string
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

USER, ASSISTANT, END, PAD, UNKNOWN = "<|user|>", "<|assistant|>", "<|end|>", "<|pad|>", "<|unknown|>"
# A line break and its indentation, a keyword argument, a word, a number, a short string, operators, signs.
_PIECE = (
    r'\n *|reverse=True|[A-Za-z_]+|[0-9]+|"[^"\n]{0,8}"'
    r"|\*\*|//|[-+*/%]=|==|!=|<=|>=|\[::-1\]|\[\]|[^\sA-Za-z0-9_]"
)
_SPACING = (
    (" (?=\n)", ""),
    ("(?<=\n) (?= *[^ \n])", ""),
    (r"(?<=\S) (?=[()\],:.]|\[::)", ""),
    (r"(?<=[(.]) ", ""),
)
# Only the last user turn is shown: a model of this size reads no instructions.
_TEMPLATE = (
    "{%- set shown = messages | selectattr('role', 'ne', 'system') | list -%}"
    "{%- for m in shown[-2:] -%}"
    "{%- if m.role == 'user' -%}{{ '<|user|>' + m.content + '<|assistant|>' }}"
    "{%- elif loop.last -%}{{ m.content + '<|end|>' }}{%- endif -%}"
    "{%- endfor -%}"
)


def train_tokenizer(texts: Iterable[str], vocabulary: int = 640) -> PreTrainedTokenizerFast:
    """Train the tokenizer.

    texts       what it will meet: descriptions, signatures, code
    vocabulary  number of tokens at most
    returns     a tokenizer with a chat template; END is its end-of-sequence token
    """
    tokenizer = Tokenizer(models.WordPiece(unk_token=UNKNOWN, max_input_chars_per_word=200))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(_PIECE), "isolated"),
        pre_tokenizers.Split(Regex(r"\A +\z"), "removed"),
    ])  # fmt: skip
    tokenizer.decoder = decoders.Sequence([
        decoders.WordPiece(prefix="##", cleanup=False),
        decoders.Fuse(),
        *(decoders.Replace(Regex(pattern), content) for pattern, content in _SPACING),
    ])  # fmt: skip
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END, USER, ASSISTANT, UNKNOWN], show_progress=False,
        initial_alphabet=list(string.ascii_letters + string.digits + string.punctuation),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, unk_token=UNKNOWN, padding_side="left",
        additional_special_tokens=[USER, ASSISTANT], chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False, model_max_length=2048,
    )  # fmt: skip


def train_byte_tokenizer(texts: Iterable[str], vocabulary: int = 500) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with the same chat template: it cuts words otherwise.

    texts       what it will meet: descriptions, signatures, code
    vocabulary  number of tokens at most; 256 of them are the bytes
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END, USER, ASSISTANT], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, padding_side="left",
        additional_special_tokens=[USER, ASSISTANT], chat_template=_TEMPLATE,
        clean_up_tokenization_spaces=False, model_max_length=2048,
    )  # fmt: skip
