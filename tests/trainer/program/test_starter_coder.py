"""The starter's sequence coder: what it is taught, and what it writes for sequences it has never seen."""

from __future__ import annotations

from trainer.channels.program.environment import Rules
from trainer.channels.program.execution import Executor
from trainer.channels.program.notation import read
from trainer.channels.program.program import Program, parse, values
from trainer.channels.program.program_code import length_bits
from trainer.channels.program.search import search
from trainer.channels.program.warm_start import Pairs, Stage
from trainer.measure.programs import figures
from trainer.measure.programs_coders import load_coder
from trainer.starter.sequences_tokenizer import make_tokenizer
from trainer.tasks.sequences import generate
from trainer.tasks.sequences_load import DATA_SEED
from trainer.tasks.sequences_transcribe import transcribe


def test_it_writes_short_programs_that_print_held_out_sequences(executor: Executor) -> None:
    sequences = [pair.sequence for pair in generate("test", 32, DATA_SEED, max_length=64)]
    coder = load_coder("starter", device="cpu", threads=1)
    found = figures(sequences, search(coder, sequences, executor, Rules(), max_tokens=150).best)
    assert found.accuracy > 0.7
    # Everything paid for: what it could not write is sent as it is, at 8 bits a byte and more.
    assert found.compression_rate < 0.6


def test_a_coder_is_taught_what_the_runs_say_and_what_is_shorter() -> None:
    tokenizer = make_tokenizer()

    def taught(share: float) -> list[tuple[list[int], Program]]:
        pairs = Pairs(tokenizer, [Stage(1.0, 64, 2048)], 10, seed=3, transcribed=share)
        found = []
        for example in next(iter(pairs)):
            sequence = read(tokenizer.decode(example.prompt, skip_special_tokens=True).replace(",", ""))
            program = parse(tokenizer.decode(example.program, skip_special_tokens=True))
            assert values(program)[-1] == sequence
            found.append((sequence, program))
        return found

    assert all(program == transcribe(sequence) for sequence, program in taught(1.0))
    shorter = [length_bits(transcribe(sequence)) - length_bits(program) for sequence, program in taught(0.0)]
    assert min(shorter) >= 0 and sum(saved > 0 for saved in shorter) > len(shorter) // 10
