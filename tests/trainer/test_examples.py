"""Every example of every `--help` works as it is written: it parses, and what it names is there."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest

from trainer.cli import CHANNELS, VERBS, main, make_parser
from trainer.config import CONFIGS

# What `demo` and `demo program` leave, as a shell would find it, and what an earlier example makes.
LEFT_BY_DEMO = re.compile(r"runs/demo-(program-|latent-)?\*-seed[*1]")
MAKES = ("-o", "--output", "--svg", "--out", "--second-out", ">", ">>")


def commands() -> list[list[str]]:
    """The example commands of every verb, as words; comments, background and pipes taken apart."""
    found = []
    for verb, channel in [*((verb, None) for verb in VERBS), *CHANNELS]:
        module = import_module(CHANNELS[verb, channel] if channel else VERBS[verb][0])
        text = (make_parser(verb, module).epilog or "").partition("example")[2].replace("\\\n", " ")
        for line in text.splitlines()[1:]:
            for part in re.split(r"\s[&|](?=\s|$)", re.sub(r"\s+#.*", "", line)):
                words = shlex.split(part)
                if "trainer.cli" in words:
                    words = ["psuedoptimal", *words[words.index("trainer.cli") + 1 :]]
                if words[:1] in (["psuedoptimal"], ["python"]):
                    found.append(words)
    return found


COMMANDS = commands()


def test_every_verb_has_an_example_of_its_own() -> None:
    assert {words[1] for words in COMMANDS} >= set(VERBS)
    assert {tuple(words[1:3]) for words in COMMANDS} >= set(CHANNELS)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_an_example_parses(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if words[0] == "python":
        import_module(words[2])
        return
    argv = words[1 : next((i for i, word in enumerate(words) if word in (">", ">>")), None)]
    module = import_module(CHANNELS.get((argv[0], *argv[1:2]), VERBS[argv[0]][0]))
    _, unknown = make_parser(argv[0], module).parse_known_args(argv[1:])
    assert unknown == []


def test_what_an_example_names_is_there(repo: Path) -> None:
    made = {words[i + 1] for words in COMMANDS for i, word in enumerate(words[:-1]) if word in MAKES}
    for words in COMMANDS:
        for word in words[1:]:
            if word.startswith("runs/"):
                assert LEFT_BY_DEMO.fullmatch(word), f"{word} in {shlex.join(words)}"
            elif word.endswith((".yaml", ".md", ".jsonl", ".json", ".bin", ".psda")):
                there = (repo / word).exists() or (CONFIGS / word).exists() or word in made
                assert there, f"{word} in {shlex.join(words)}"


@pytest.mark.parametrize(
    "words",
    [words for words in COMMANDS if words[1] in ("tasks", "train") and words[-1] != "own.jsonl"],
    ids=" ".join,
)  # fmt: skip
def test_an_example_that_costs_nothing_is_run(
    words: list[str], repo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo)
    argv = words[1 : next((i for i, word in enumerate(words) if word in (">", ">>")), None)]
    assert main([*argv, "--print-config"] if argv[0] == "train" else argv) == 0
