"""Programs that other models wrote: read from their answers, and judged like ours.

A row is a JSON object (or a JSON string that holds one) with `prompt`, which shows the sequence, and
`generation`. What is fenced is the program, up to the end mark that the prompt asks for.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

from shared.clients import run
from trainer.channels.program.environment import Rollout, Rules, rollout_of
from trainer.channels.program.execution import Executor
from trainer.config import ConfigError
from trainer.tasks.sequences_files import read_sequences

END = "###"
_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)


class Answer(NamedTuple):
    """One model's answer: the sequence it was asked for, and the program in its words."""

    sequence: tuple[int, ...]
    program: str


def read_answers(path: Path, field: str = "generation") -> list[Answer]:
    """Return the answers of a file.

    field   the row's field that holds the answer
    raises  ConfigError naming file and line
    """
    found = []
    rows = read_sequences(path, "jsonl")
    lines = [line for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    for row, line in zip(rows, lines, strict=True):
        value = json.loads(line)
        value = json.loads(value) if isinstance(value, str) else value
        if not isinstance(value.get(field), str):
            raise ConfigError(f"{row.place}: no `{field}` with an answer among {sorted(value)}")
        found.append(Answer(row.sequence, program_of(value[field], str(value.get("prompt", "")))))
    return found


def program_of(answer: str, prompt: str = "") -> str:
    """Return the program in a model's answer.

    answer  it may say the prompt's last line again first, may fence the program, and ends it with END
    """
    fenced = _FENCE.search(answer)
    if fenced:
        return fenced[1].partition(END)[0]
    last = prompt.strip().rpartition("\n")[2]
    before, said, after = answer.partition(last) if last else ("", "", answer)
    return (after if said else before + after).partition(END)[0].strip() + "\n"


def judge_answers(answers: list[Answer], executor: Executor, rules: Rules) -> list[Rollout]:
    """Execute whole programs, in one request (up to the wire's limit).

    returns  rollouts [N]
    raises   NoAnswer, RequestRefused
    """
    outputs = run(executor.run([answer.program for answer in answers]))
    return [
        rollout_of(a.sequence, a.program, a.program.count("\n") + 1, output, rules)
        for a, output in zip(answers, outputs, strict=True)
    ]
