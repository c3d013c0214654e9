"""Runs side by side, from folders as the trainer leaves them; bits against a second count by hand."""

from __future__ import annotations

import gzip
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from trainer.cli import main
from trainer.config_text import STARTER_STUDENT
from trainer.measure.compare import as_text, compare
from trainer.measure.compare_figure import figure
from trainer.measure.folder import read_run
from trainer.measure.rates_read import Words, path_of, program_series
from trainer.measure.record import Message, Record
from trainer.measure.tables import row_of
from trainer.tasks.starter import starter_tasks

TASKS = starter_tasks("test", 30, 0)
WORDS = Words(STARTER_STUDENT / "tokenizer.json")


def short(i: int) -> str:
    """What a student might send: the reference without its layout and brackets."""
    return " ".join(re.findall(r"[a-z]{3,}|[0-9]+|[%*/+-]+", TASKS[i].reference))


def other_words(folder: Path) -> Path:
    """The folder of a student that cuts a text into single bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    folder.mkdir()
    words.save(str(folder / "tokenizer.json"))
    return folder


def write_text(
    folder: Path, seed: int, *, failing: int = 1, unread: int = 0, n: int = 30, words: Words = WORDS,
    more: str = "", **config: Any,
) -> Path:  # fmt: skip
    """An evaluated text run of the starter: its student fails the first `failing` tasks, the reference the
    first `unread`; `more` stands at the end of each of the student's messages."""
    folder.mkdir()
    tasks = TASKS[:n]
    said = {
        "student": [short(i) + more for i in range(n)], "reference": [t.reference for t in tasks],
        "empty message": [""] * n,
    }  # fmt: skip
    fails = {"student": failing, "reference": unread, "empty message": n}
    kinds = {"student": "student", "empty message": "control"}
    records = {
        name: [
            Record(
                t.task_id,
                t.family,
                m.text,
                m.tokens,
                "",
                "",
                "failed" if i < fails[name] else "passed",
                "value",
            )
            for i, (t, m) in enumerate(
                zip(tasks, [Message(x, len(words.ids(x))) for x in texts], strict=True)
            )
        ]
        for name, texts in said.items()
    }
    rows = [row_of(name, kinds.get(name, "baseline"), found).as_json() for name, found in records.items()]
    evaluation = {
        "rows": rows, "records": {name: [r._asdict() for r in found] for name, found in records.items()},
        "tasks": {"sha256": f"{n}".ljust(64, "a"), "split": "test", "n": n},
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    settings = {"student_model": "starter", "target_pass_rate": 0.9, "seed": seed, **config}
    (folder / "config.yaml").write_text(json.dumps(settings))
    (folder / "summary.json").write_text(json.dumps({"channel": "text", "seed": seed}))
    looks = [{"step": s, "split": "validation", "pass_rate": 0.9, "tokens": 30 - s} for s in (0, 10, 20)]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(look) + "\n" for look in looks))
    return folder


def write_program(folder: Path) -> Path:
    folder.mkdir()
    figures = {"n": 4}
    baselines = [{"name": "literal program", "bits_per_sequence": 200.0, "compression_rate": 1.0}]
    row = {"set": "generated", "samples": 1, "figures": figures, "baselines": baselines,
           "programs": [[20, True], [30, True], [40, True], [90, False]]}  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps({"rows": [row]}))
    (folder / "summary.json").write_text(json.dumps({"channel": "program"}))
    (folder / "config.yaml").write_text("length_penalty: 0.1\nseed: 1\n")
    return folder


def write_latent(folder: Path, n: int = 30, vectors: int = 4, mixed_up: int | None = None) -> Path:
    """Blind messages of 4 vectors of 16 numbers: whole, in 8 bits, in 4 bits, and none.

    mixed_up  of how many tasks another task's message passes; None leaves that control out
    """
    folder.mkdir()
    right = {"student": (2048, 30), "student int8": (576, 29), "student int4": (320, 20), "none": (0, 0)}
    if mixed_up is not None:
        right["mismatched"] = (2048, mixed_up)
    senders = {
        name: {"kind": "student" if name.startswith("student") else "control",
               "bits": [bits * vectors // 4] * n, "passed": [i < passed for i in range(n)]}
        for name, (bits, passed) in right.items()
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps({"senders": senders}))
    blind = {"student": 1.0, "none": 0.0, "mismatched": 0.1}
    summary = {"channel": "latent", "heldout": {"n": n, "blind": blind}, "message": {"bits": 2048}}
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "config.yaml").write_text(f"seed: 1\nK: {vectors}\n")
    return folder


def found_of(*folders: Path) -> Any:
    return compare([read_run(folder) for folder in folders])


def point(found: Any, name: str, code: str) -> Any:
    return next(p for p in found.points if (p.name, p.code) == (name, code))


def test_bits_are_tokens_times_the_vocabularys_logarithm(tmp_path: Path) -> None:
    found = found_of(write_text(tmp_path / "a", 1))
    tokens = [len(WORDS.ids(short(i))) for i in range(30)]
    plain = point(found, "student", "tokens")
    assert plain.bits.value == pytest.approx(sum(tokens) / 30 * math.log2(WORDS.vocabulary))
    assert plain.pass_rate.value == pytest.approx(29 / 30)
    coded = point(found, "student", "entropy")
    assert 5 < coded.bits.value < plain.bits.value / 2
    zipped = point(found, "reference, gzip", "gzip")
    by_hand = [8 * len(gzip.compress(t.reference.encode(), 9, mtime=0)) for t in TASKS]
    assert zipped.bits.value == pytest.approx(sum(by_hand) / 30)


def test_the_fewest_tokens_are_the_students_while_it_holds_the_level(tmp_path: Path) -> None:
    front = found_of(write_text(tmp_path / "a", 1)).fronts[0]
    student = point(found_of(tmp_path / "a"), "student", "tokens")
    assert front.reached_by == "student" and front.tokens_at.value == student.tokens.value
    front = found_of(write_text(tmp_path / "b", 1, failing=6)).fronts[0]
    assert front.reached_by == "reference"


def test_seeds_are_one_point_and_other_settings_another(tmp_path: Path) -> None:
    seeds = [write_text(tmp_path / f"s{i}", i, failing=i) for i in (1, 2, 3)]
    other = write_text(tmp_path / "t", 1, target_pass_rate=0.5)
    found = found_of(*seeds)
    assert point(found, "student", "tokens").runs == 3
    assert point(found, "student", "tokens").pass_rate.value == pytest.approx(28 / 30)
    assert point(found, "reference", "tokens").runs == 1
    found = found_of(*seeds, other)
    assert point(found, "student (target_pass_rate 0.9)", "tokens").runs == 3
    assert point(found, "student (target_pass_rate 0.5)", "tokens").runs == 1


def same_either_way(*folders: Path) -> Any:
    """What is found of runs, which is the same in whatever order they are given."""
    found, again = found_of(*folders), found_of(*reversed(folders))
    assert {(p.name, p.code): p for p in found.points} == {(p.name, p.code): p for p in again.points}
    assert sorted(map(repr, found.fronts)) == sorted(map(repr, again.fronts))
    return found


def front(found: Any, code: str, verbose: str) -> Any:
    return next(f for f in found.fronts if (f.code, f.verbose) == (code, verbose))


def test_runs_of_other_students_have_baselines_and_fronts_of_their_own(tmp_path: Path) -> None:
    model = other_words(tmp_path / "bytes")
    words = Words(model / "tokenizer.json")
    folders = [
        write_text(tmp_path / "a", 1, target_pass_rate=0.5),
        write_text(tmp_path / "b", 1, words=words, student_model=str(model)),
    ]
    found = same_either_way(*folders)
    alone = {"starter": found_of(folders[0]), str(model): found_of(folders[1])}
    for name, own in alone.items():
        shared = f"reference (student_model {name})"
        assert point(found, shared, "tokens").bits == point(own, "reference", "tokens").bits
        for code in ("tokens", "entropy"):
            here, there = front(found, code, shared), front(own, code, "reference")
            assert (here.limit, here.level, here.area) == (there.limit, there.level, there.area)
            assert (here.bits_at, here.steps) == (there.bits_at, there.steps)
            assert here.reached_by.startswith(f"student (student_model {name}, target_pass_rate")
    said = as_text(found)
    assert f"/test; reference (student_model {model})" in said and "each of these has baselines" in said


@pytest.mark.parametrize("name", ["generator_model", "max_program_tokens", "limits", "min_assurance"])
def test_runs_that_were_measured_otherwise_have_baselines_of_their_own(tmp_path: Path, name: str) -> None:
    found = same_either_way(
        write_text(tmp_path / "a", 1, **{name: 1}), write_text(tmp_path / "b", 1, unread=6, **{name: 2})
    )
    rates = {p.name: p.pass_rate.value for p in found.points if p.name.startswith("reference (")}
    assert rates == {f"reference ({name} 1)": 1, f"reference ({name} 2)": pytest.approx(0.8)}
    assert front(found, "tokens", f"reference ({name} 2)").level == pytest.approx(0.8 * 0.95)


def test_runs_that_were_trained_otherwise_share_a_row_and_a_front(tmp_path: Path) -> None:
    found = same_either_way(
        write_text(tmp_path / "a", 1), write_text(tmp_path / "b", 2),
        write_text(tmp_path / "c", 1, more=" return", target_pass_rate=0.5, learning_rate=1e-4),
    )  # fmt: skip
    assert point(found, "reference", "tokens").runs == point(found, "reference", "entropy").runs == 1
    assert [f.code for f in found.fronts] == ["tokens", "entropy"]
    assert "baselines and fronts" not in as_text(found) and "/test; " not in as_text(found)


def test_a_sender_whose_programs_passed_in_one_run_only_is_the_mean_of_both(tmp_path: Path) -> None:
    found = same_either_way(write_text(tmp_path / "a", 1), write_text(tmp_path / "b", 2, unread=6))
    for code in ("tokens", "entropy"):
        shared = point(found, "reference", code)
        assert (shared.runs, shared.pass_rate.value) == (2, pytest.approx(0.9))


def test_what_is_made_of_a_latent_message_is_the_runs_own(tmp_path: Path) -> None:
    found = same_either_way(
        write_latent(tmp_path / "a", mixed_up=0), write_latent(tmp_path / "b", vectors=2, mixed_up=3)
    )
    rates = {p.name: (p.bits.value, p.pass_rate.value) for p in found.points}
    assert rates["mismatched (K 4)"] == (2048, 0) and rates["mismatched (K 2)"] == (1024, 0.1)
    assert rates["none"] == (0, 0)
    assert [(f.limit, f.verbose) for f in found.fronts] == [(2048, "student (K 4)")]


def test_the_best_of_several_programs_is_its_own_coders(tmp_path: Path) -> None:
    folders = [write_program(tmp_path / name) for name in ("p", "q")]
    for folder, solved in zip(folders, (True, False), strict=True):
        evaluation = json.loads((folder / "evaluation.json").read_text())
        best = {**evaluation["rows"][0], "samples": 16, "programs": [[9 if solved else 10, solved]] * 4}
        (folder / "evaluation.json").write_text(json.dumps({"rows": [*evaluation["rows"], best]}))
        (folder / "config.yaml").write_text(f"length_penalty: {0.1 if solved else 0.2}\nseed: 1\n")
    rates = {p.name: p.pass_rate.value for p in same_either_way(*folders).points}
    assert rates["coder, best of 16 (length_penalty 0.1)"] == 1
    assert rates["coder, best of 16 (length_penalty 0.2)"] == 0
    assert rates["literal program"] == 1


def test_runs_on_different_tasks_are_not_compared(tmp_path: Path, capsys: Any) -> None:
    one, two = write_text(tmp_path / "a", 1), write_text(tmp_path / "b", 2, n=20)
    assert main(["compare", str(one), str(two)]) == 2
    assert "the same --tasks" in capsys.readouterr().err


def test_programs_stand_beside_in_bits_of_their_code(tmp_path: Path) -> None:
    found = found_of(write_text(tmp_path / "a", 1), write_program(tmp_path / "p"))
    coder = point(found, "coder", "prefix")
    assert coder.bits.value == 45 and coder.pass_rate.value == 0.75
    assert point(found, "literal program", "prefix").bits.value == 200
    front = next(f for f in found.fronts if f.channel == "program")
    assert front.area.value == pytest.approx(0.75 * 155 / 200)
    assert front.reached_by == ""  # 0.75 is below 95 % of the literal program's 1


def test_a_coders_own_set_comes_first_and_its_way_is_in_the_same_bits(tmp_path: Path) -> None:
    folder = write_program(tmp_path / "p")
    evaluation = json.loads((folder / "evaluation.json").read_text())
    short, own = dict(evaluation["rows"][0]), dict(evaluation["rows"][0])
    short["set"], own["set"] = "generated, up to 64", "generated, up to 128"
    (folder / "evaluation.json").write_text(json.dumps({"rows": [short, own]}))
    (folder / "config.yaml").write_text("max_length: 128\nseed: 1\n")
    looks = [(0, "wrong", 90), (0, "solved", 30), (0, "solved", 60), (9, "solved", 50), (9, "solved", 30)]
    lines = [{"step": s, "split": "validation", "outcome": o, "bits": b} for s, o, b in looks]
    lines.append({"step": 9, "split": "test", "outcome": "wrong", "bits": 999})
    (folder / "heldout.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run = read_run(folder)
    assert [s.tasks for s in program_series(run) if s.name == "coder"] == [
        "generated, up to 128/4", "generated, up to 64/4"
    ]  # fmt: skip
    assert path_of(run) == [(60, pytest.approx(2 / 3)), (40, 1)]


def test_vectors_stand_beside_at_all_their_bits(tmp_path: Path) -> None:
    found = found_of(write_text(tmp_path / "a", 1), write_latent(tmp_path / "l"))
    bits = {p.name: p.bits.value for p in found.points if p.channel == "latent"}
    assert bits == {"student": 2048, "student int8": 576, "student int4": 320, "none": 0}
    front = next(f for f in found.fronts if f.channel == "latent")
    assert (front.bits_at.value, front.reached_by, front.limit) == (576, "student int8", 2048)
    assert front.area.value == pytest.approx((256 * 20 + (2048 - 576) * 29) / 30 / 2048)


def test_vectors_of_a_run_that_was_not_evaluated_are_those_of_its_summary(tmp_path: Path) -> None:
    run = write_latent(tmp_path / "l")
    (run / "evaluation.json").unlink()
    rates = {p.name: (p.bits.value, p.pass_rate.value) for p in found_of(run).points}
    assert rates == {"student": (2048, 1), "none": (0, 0), "mismatched": (2048, pytest.approx(0.1))}


def test_a_run_that_was_not_evaluated_is_named(tmp_path: Path, capsys: Any) -> None:
    folder = write_text(tmp_path / "a", 1)
    (folder / "evaluation.json").unlink()
    assert main(["compare", str(folder)]) == 2
    assert "psuedoptimal evaluate" in capsys.readouterr().err


@pytest.mark.parametrize("rows", [3, [3], [{"set": "a", "programs": [[1, True]]}], [{"coder": "c"}]])
def test_figures_of_another_version_are_named_with_the_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: Any
) -> None:
    folder = write_program(tmp_path / "p")
    (folder / "evaluation.json").write_text(json.dumps({"rows": rows}))
    for verb in (["compare"], ["report", "program"]):
        assert main([*verb, str(folder)]) == 2
        said = capsys.readouterr().err
        assert "of another version" in said and f"psuedoptimal evaluate program {folder}" in said


def test_a_run_given_twice_is_no_second_seed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_program(tmp_path / "p")
    for verb in (["compare"], ["evaluate"], ["report"], ["report", "program"], ["language"]):
        assert main([*verb, str(folder), f"{folder}/../p"]) == 2
        assert f"{folder}: given more than once" in capsys.readouterr().err


def test_settings_that_cannot_be_read_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_program(tmp_path / "p")
    for text, said in (("a: [", "not YAML"), ("", "is empty"), ("- 1", "found a list")):
        (folder / "config.yaml").write_text(text)
        for verb in (["compare"], ["report", "program"]):
            assert main([*verb, str(folder)]) == 2
            found = capsys.readouterr().err
            assert f"{folder}/config.yaml" in found and said in found


def test_the_verb_prints_tables_and_draws_the_figure(tmp_path: Path, capsys: Any) -> None:
    folders = [write_text(tmp_path / "a&b", 1), write_program(tmp_path / "p"), write_latent(tmp_path / "l")]
    svg = tmp_path / "rates.svg"
    assert main(["compare", *map(str, folders), "--svg", str(svg), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {p["channel"] for p in said["points"]} == {"text", "program", "latent"} and said["fronts"][0][
        "area"
    ]["low"]
    picture = ElementTree.fromstring(svg.read_text())
    space = "{http://www.w3.org/2000/svg}"
    panels = ["".join(t.text or "" for t in g.iter(f"{space}tspan")) for g in picture.iter(f"{space}g")]
    assert [panel.split("held")[0] for panel in panels] == ["text30 ", "program4 ", "latent30 "]
    named = [[t.text for t in g.iter(f"{space}text")] for g in picture.iter(f"{space}g")]
    assert {"student", "student, entropy-coded"} <= {*named[0]} and "coder" in named[1]
    assert {"fp32", "int8", "int4"} <= {*named[2]} and "bits per message, log scale" in named[2]
    assert main(["compare", *map(str, folders), "--markdown"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("| channel | sender |") and lines[1].startswith("| --- |")


def test_a_figure_that_cannot_be_written_is_said_before_anything_is_read(tmp_path: Path, capsys: Any) -> None:
    assert main(["compare", str(tmp_path), "--svg", str(tmp_path / "no" / "rates.svg")]) == 2
    assert f"there is no folder {tmp_path / 'no'}" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), "--svg", str(tmp_path)]) == 2
    assert f"--svg {tmp_path}: is a folder" in capsys.readouterr().err


def test_a_tokenizer_cut_short_is_named_with_the_way_out(tmp_path: Path, capsys: Any) -> None:
    folder = write_text(tmp_path / "a", 1)
    file = folder / "checkpoints" / "best" / "tokenizer.json"
    file.parent.mkdir(parents=True)
    file.write_text((STARTER_STUDENT / "tokenizer.json").read_text(encoding="utf-8")[:2000])
    assert main(["compare", str(folder)]) == 2
    assert f"{file}: no tokenizer that can be read (EOF while" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("examined", "evaluated", "shown"),
    [
        ("best (step 40)", "best (step 80)", False),
        ("checkpoint-40", "best (step 80)", False),
        ("best (step 80)", "best (step 80)", True),
        ("best", "best (step 80)", True),  # of an older version, which did not say more
        ("best (step 80)", None, True),
    ],
)
def test_beginnings_stand_beside_an_evaluation_of_the_same_weights(
    tmp_path: Path, examined: str, evaluated: str | None, shown: bool
) -> None:
    folder = write_text(tmp_path / "a", 1)
    evaluation = json.loads((folder / "evaluation.json").read_text())
    if evaluated:
        (folder / "evaluation.json").write_text(json.dumps({**evaluation, "checkpoint": evaluated}))
    half = {"share": 0.5, "records": evaluation["records"]["student"]}
    controls = {"checkpoint": examined, "tasks": evaluation["tasks"], "prefix": {"steps": [half]}}
    (folder / "controls.json").write_text(json.dumps(controls))
    assert ("student, first 50%" in {p.name for p in found_of(folder).points}) == shown


def test_looks_that_do_not_say_all_are_left_out_of_the_way(tmp_path: Path, capsys: Any) -> None:
    folder = write_text(tmp_path / "a", 1)
    with (folder / "evaluations.jsonl").open("a") as file:
        file.write(
            '{"step": 30, "split": "validation", "pass_rate": 0.9}\n{"split": "validation", "tokens": null}\n'
        )
    assert main(["compare", str(folder)]) == 0 and len(path_of(read_run(folder))) == 3
    folder = write_program(tmp_path / "p")
    (folder / "heldout.jsonl").write_text('{"step": 1}\n{"split": "validation", "step": 1, "bits": 8}\n')
    assert path_of(read_run(folder)) == [(8, 0)]


def test_the_figure_escapes_what_a_run_is_called(tmp_path: Path) -> None:
    found = found_of(write_text(tmp_path / "a<script>", 1))
    ElementTree.fromstring(figure(found))
    assert "<script>" not in figure(found)
