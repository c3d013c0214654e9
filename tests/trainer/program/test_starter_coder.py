"""The starter's sequence coder, on sequences that it has never seen, against a real sandbox."""

from __future__ import annotations

from trainer.channels.program.environment import Rules
from trainer.channels.program.execution import Executor
from trainer.channels.program.search import search
from trainer.measure.programs import figures
from trainer.measure.programs_coders import load_coder
from trainer.tasks.sequences import generate
from trainer.tasks.sequences_load import DATA_SEED


def test_it_writes_short_programs_that_print_held_out_sequences(executor: Executor) -> None:
    sequences = [pair.sequence for pair in generate("test", 32, DATA_SEED, max_length=64)]
    coder = load_coder("starter", device="cpu", threads=1)
    found = figures(sequences, search(coder, sequences, executor, Rules(), max_tokens=150).best)
    assert found.accuracy > 0.4
    # Everything paid for: what it could not write is sent as it is, at 8 bits a byte and more.
    assert found.compression_rate < 0.7
