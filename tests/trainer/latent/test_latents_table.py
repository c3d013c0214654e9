"""The tables of latent runs: seeds put together, the nearest control, students of several K."""

from __future__ import annotations

from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from trainer.cli import main
from trainer.cli_latent_demo import _several, _vectors
from trainer.config import ConfigError, resolve
from trainer.config_latent import LatentConfig
from trainer.measure.latents import by_vectors, margin, together
from trainer.runs import Run


def row(name: str, kind: str, vectors: int, bits: int, ce: float, rate: float) -> dict[str, Any]:
    return {"name": name, "kind": kind, "vectors": vectors, "bits": bits, "ce": {"blind": ce},
            "pass_rate": rate, "seconds_per_message": 0.5}  # fmt: skip


def evaluation(vectors: int, seed: int, ce: float, rate: float) -> dict[str, Any]:
    bits = 32 * 4 * vectors
    return {
        "channel": "latent", "run": f"k{vectors}-seed{seed}", "seed": seed, "tasks": {"n": 10},
        "latent": {"vectors": vectors, "width": 4, "bits": 32},
        "rows": [
            row("student", "student", vectors, bits, ce, rate), row("none", "control", 0, 0, 2.0, 0.0),
            row("mismatched", "control", vectors, bits, 1.5 + ce, 0.0),
            row("text plan", "baseline", vectors, bits, 0.1, 1.0),
            row("student int8", "student", vectors, bits // 4, ce, rate),
            row("student fp32, first 1", "student", 1, 128, 1.0, 0.0),
        ],
    }  # fmt: skip


FOUND = [evaluation(2, 1, 0.1, 0.9), evaluation(2, 2, 0.3, 0.7), evaluation(1, 1, 0.9, 0.4)]


def test_a_margin_is_to_the_nearest_control_beside_the_larger_spread() -> None:
    groups = by_vectors(FOUND)
    assert list(groups) == [1, 2]
    lines = together(groups[2])
    near = margin(lines, "blind")
    assert near is not None
    assert near.control == "mismatched"  # 1.7 beside 2.0; the baseline is no control
    assert near.gap == pytest.approx(1.5)
    assert near.spread == pytest.approx(stdev([0.1, 0.3]))
    assert margin(together(groups[1]), "blind") is None


def test_saved_evaluations_are_printed_by_k_and_side_by_side(tmp_path: Path, capsys: Any) -> None:
    config = resolve(LatentConfig, [Path("starter-latent.yaml")], {})
    folders = []
    for found in FOUND:
        run = Run.create(tmp_path, found["run"], config)
        run.write_json("evaluation.json", found)
        folders.append(str(run.folder))
    assert main(["evaluate", "latent", *folders, "--saved"]) == 0
    one, two, sweep = capsys.readouterr().out.strip().split("\n\n")
    assert one.startswith("10 held-out conversations")
    assert two.startswith("2 seeds, mean ± standard deviation; 10 held-out")
    assert "CE blind: 1.500 below the nearest control (mismatched); the larger standard" in two
    assert [line.split()[:5] for line in sweep.splitlines()[1:]] == [
        ["1", "1", "fp32", "128", "0.400"], ["1", "1", "int8", "32", "0.400"],
        ["2", "2", "fp32", "256", "0.800"], ["2", "2", "int8", "64", "0.800"],
    ]  # fmt: skip
    assert main(["report", "latent", *folders, "--output", str(tmp_path / "all.html")]) == 0
    page = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert "K = 1: student int8" in page
    assert "K = 2: mismatched" in page
    (Path(folders[0]) / "evaluation.json").unlink()
    assert main(["evaluate", "latent", *folders, "--saved"]) == 2
    assert "holds no evaluation; make it with" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", ["0", "2,2", "2,x", "", "2,-1", "2,²"])
def test_a_wrong_number_of_vectors_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match="--K"):
        _vectors(wrong, 8)
    assert _vectors("1, 16", 8) == [1, 16]
    assert _vectors(None, 8) == [8]


def test_a_chain_ends_with_its_first_verb_that_fails(tmp_path: Path, capfd: Any) -> None:
    wrong = ["evaluate", "latent", str(tmp_path / "no-run"), "--saved"]
    assert _several([[wrong, ["train", "latent", "--print-config"]]], 2) == 2
    said = capfd.readouterr()
    assert "no-run" in said.err
    assert "max_steps" not in said.err + said.out


@pytest.mark.parametrize("wrong", ["0", "-1", "x"])
def test_no_student_at_a_time_is_refused_before_anything_is_collected(
    wrong: str, tmp_path: Path, capsys: Any
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["demo", "latent", "--runs", str(tmp_path), f"--at-once={wrong}"])
    assert f"--at-once: {wrong!r} is no count" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_demos_settings_train_in_both_modes() -> None:
    blind = resolve(LatentConfig, [Path("starter-latent.yaml")], {})
    beside = resolve(LatentConfig, [Path("starter-latent-beside.yaml")], {"hf_hidden_repo": "x"})
    differing = {name for name in LatentConfig.model_fields if getattr(blind, name) != getattr(beside, name)}
    assert differing == {"layout", "kl_weight", "align_weight", "hf_hidden_repo"}
