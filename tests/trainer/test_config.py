"""Where a setting comes from, and what is said when it is wrong."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from trainer.bearer import read_token
from trainer.cli import main
from trainer.config import (
    CONFIGS,
    ConfigError,
    add_flags,
    dump_yaml,
    given_flags,
    load_yaml,
    resolve,
)
from trainer.config_latent import LatentConfig
from trainer.config_program import ProgramConfig
from trainer.config_text import TextConfig
from trainer.measure import ask
from trainer.measure.evaluation_file import LOCATION, settings_of
from trainer.measure.folder import own_settings
from trainer.runs import Run

# What the file says that it leaves to its reader.
TOLD = {
    "interlat": {
        "teacher_model_name_or_path": "a", "student_model_name_or_path": "b", "data_path": "c.json",
        "hf_hidden_repo": "d",
    },
    "starter-latent-beside": {"hf_hidden_repo": "d"},
}  # fmt: skip
OTHERS = {
    "kolmogorov": ProgramConfig, "starter-program": ProgramConfig,
    "interlat": LatentConfig, "starter-latent": LatentConfig, "starter-latent-beside": LatentConfig,
}  # fmt: skip


def parsed(*argv: str) -> dict[str, object]:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    add_flags(parser, TextConfig)
    return given_flags(TextConfig, parser.parse_args(list(argv)))


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_a_flag_beats_the_environment_beats_the_file_beats_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = written(tmp_path, "seed: 2\nbatch-size: 3\nnum_generations: 6\n")
    monkeypatch.setenv("PSUEDOPTIMAL_SEED", "4")
    monkeypatch.setenv("PSUEDOPTIMAL_BATCH_SIZE", "5")
    found = resolve(TextConfig, [file], parsed("--batch-size", "7"))
    assert (found.seed, found.batch_size, found.num_generations, found.num_epochs) == (4, 7, 6, 3)


def test_a_misspelt_variable_is_refused_with_a_suggestion(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PSUEDOPTIMAL_LEARNING_RAT", "1")
    monkeypatch.setenv("PSUEDOPTIMAL_XYZ", "secret")
    assert main(["train", "text", "--print-config"]) == 2
    said = capsys.readouterr().err
    assert "PSUEDOPTIMAL_LEARNING_RAT='1': no such setting; did you mean PSUEDOPTIMAL_LEARNING_RATE?" in said
    assert "PSUEDOPTIMAL_XYZ='secret': no such setting; unset it" in said


def test_a_variable_of_another_channel_and_the_data_folder_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PSUEDOPTIMAL_MODEL_NAME", "starter")
    monkeypatch.setenv("PSUEDOPTIMAL_DATA", "/data")
    assert resolve(TextConfig, [], {}) == TextConfig()
    assert resolve(ProgramConfig, [], {}).model_name == "starter"


def test_only_the_variables_that_are_asked_for_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PSUEDOPTIMAL_SEED", "4")
    monkeypatch.setenv("PSUEDOPTIMAL_DEADLINE_S", "9")
    found = resolve(TextConfig, [], {}, variables=["deadline_s"])
    assert (found.seed, found.deadline_s) == (TextConfig().seed, 9)


def test_a_runs_own_settings_are_what_it_was_made_with_and_services_are_where_they_are_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = TextConfig(dataset="starter", decoder_url=["http://127.0.0.1:7"])
    folder = Run.create(tmp_path, "r", made).folder
    moved = {"DECODER_URL": "http://127.0.0.1:8", "DECODER_TOKEN_FILE": "/token"}
    for name, value in {"LEARNING_RATE": "0.5", "STUDENT_MODEL": "other", "SEED": "9", **moved}.items():
        monkeypatch.setenv(f"PSUEDOPTIMAL_{name}", value)
    assert own_settings(TextConfig, folder) == ask.config_of(folder) == made
    now = {"decoder_url": ["http://127.0.0.1:8"], "decoder_token_file": Path("/token")}
    found = settings_of(folder, argparse.Namespace(**dict.fromkeys(LOCATION)))
    assert found == made.model_copy(update=now)


def test_the_last_file_wins(tmp_path: Path) -> None:
    other = tmp_path / "d.yaml"
    other.write_text("seed: 9", encoding="utf-8")
    assert resolve(TextConfig, [written(tmp_path, "seed: 2\ntop_k: 3"), other], {}).seed == 9


@pytest.mark.parametrize("flag", ["--student-model", "--student_model"])
def test_both_spellings_of_a_flag_are_known(flag: str) -> None:
    assert parsed(flag, "x") == {"student_model": "x"}


def test_the_first_experiments_flags_and_settings_keep_their_names_and_defaults() -> None:
    flags = parsed(
        "--student-model", "a", "--generator-model", "b", "--batch-size", "1", "--debug", "--no-clearml"
    )
    found = resolve(TextConfig, [], flags)
    assert (found.student_model, found.generator_model, found.batch_size) == ("a", "b", 1)
    assert found.debug and not found.clearml
    plain = TextConfig()
    assert (plain.batch_size, plain.gradient_accumulation_steps, plain.num_epochs) == (2, 8, 3)
    assert (plain.learning_rate, plain.pass_reward, plain.fail_reward) == (1e-5, 10.0, -1.0)
    assert plain.student_model == "Qwen/Qwen2.5-Coder-0.5B-Instruct"
    assert plain.generator_model == "Qwen/Qwen2.5-Coder-1.5B-Instruct"


def test_no_clearml_takes_clearml_out_of_the_trackers() -> None:
    flags = parsed("--report-to", "clearml", "tensorboard", "--no-clearml")
    assert resolve(TextConfig, [], flags).trackers == ["tensorboard"]
    assert parsed("--report-to", "none") == {"report_to": []}


def test_nested_settings_are_flags_and_can_be_switched_off() -> None:
    assert parsed("--lora-r", "4", "--limits-cpu-s", "2") == {"lora": {"r": "4"}, "limits": {"cpu_s": "2"}}
    found = resolve(TextConfig, [], parsed("--lora-r", "4"))
    assert found.lora is not None and (found.lora.r, found.lora.alpha) == (4, 32)
    assert resolve(TextConfig, [], parsed("--no-lora")).lora is None


def test_none_is_null_where_a_setting_may_be_null() -> None:
    assert (
        resolve(TextConfig, [], parsed("--generator-model", "none", "--max-steps", "none")).generator_model
        is None
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rat: 1", "did you mean learning_rate?"),
        ("lora: {rank: 4}", "lora: rank: no such setting"),
        ("- 1\n- 2", "expected `key: value` lines"),
        ("a: [", "not YAML"),
        ("batch_size: 4\nbatch-size: 8\n", "batch-size stands there twice"),
        ("limits:\n  cpu_s: 1\n  cpu_s: 2\n", "cpu_s stands there twice"),
    ],
)
def test_a_wrong_file_is_named_with_the_way_out(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")) as caught:
        resolve(TextConfig, [written(tmp_path, text)], {})
    assert "c.yaml" in str(caught.value)


@pytest.mark.parametrize("text", ["{a: [", "2026-13-45"])
def test_a_value_that_is_no_yaml_is_named_with_its_flag_or_variable(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "text", "--trl", text]) == 2
    said = capsys.readouterr().err
    assert f"--trl={text!r}: not YAML (" in said and "write e.g. '{key: value}'" in said
    with pytest.raises(ConfigError, match=r"c\.yaml: not YAML"):
        load_yaml(written(tmp_path, f"a: {text}"))
    monkeypatch.setenv("PSUEDOPTIMAL_LIMITS", text)
    assert main(["train", "text", "--print-config"]) == 2
    assert f"PSUEDOPTIMAL_LIMITS={text!r}: not YAML (" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"learning_rate": -1}, "learning_rate=-1: input should be greater than 0"),
        ({"reward": "best"}, "reward='best': input should be 'ratio'"),
        ({"batch_size": "many"}, "batch_size='many'"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"multiplier_min": 5, "multiplier_max": 1}, "multiplier_min=5.0 is above"),
        ({"budget": 20, "budget_start": 12}, "budget_start=12 is below budget=20"),
        ({"gradient_accumulation_steps": 4, "steps_per_generation": 6}, "take a multiple or a divisor"),
        ({"num_iterations": 3, "save_steps": 10}, "a sampled batch lasts 3 steps"),
        ({"quantization": "nf4", "lora": None}, "4-bit weights cannot be trained"),
        ({"save_total_limit": 1}, "save_total_limit=1"),
        ({"name": "../x"}, "name='../x'"),
        ({"decoder_url": ["notaurl"]}, "decoder_url.0='notaurl': 'notaurl' is not the URL of a service; use"),
        ({"sandbox_url": ["http://a:b"]}, "sandbox_url.0='http://a:b'"),
        ({"temperature": 1e-300}, "temperature=1e-300: input should be greater than or equal to 0.01"),
        ({"generator_temperature": 1e-39}, "generator_temperature=1e-39: 0 is greedy, and sampling needs"),
        ({"pass_reward": 1e308}, "pass_reward=1e+308: input should be less than or equal to 1000000"),
        ({"fail_reward": -1e308}, "fail_reward=-1e+308: input should be greater than or equal to -1000000"),
    ],
)
def test_a_value_out_of_bounds_is_named(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(TextConfig, [], settings)
    assert said in str(caught.value)


def test_a_missing_file_names_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"psuedoptimal\.yaml"):
        resolve(TextConfig, [Path("nowhere.yaml")], {})


def test_a_written_config_reads_back_equal(tmp_path: Path) -> None:
    config = TextConfig(lora=None, trl={"use_vllm": True}, decoder_url=["http://a"], learning_rate=3e-7)
    assert resolve(TextConfig, [written(tmp_path, dump_yaml(config))], {}) == config


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_config_is_valid(file: Path) -> None:
    resolve(OTHERS.get(file.stem, TextConfig), [file], TOLD.get(file.stem, {}))


@pytest.mark.parametrize("verb", [["train", "text"], ["evaluate", "r"], ["decode", "m"], ["doctor"]])
def test_an_address_that_is_none_is_a_bad_request_of_every_verb(
    verb: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Run.create(tmp_path, "r", TextConfig())
    words = [str(tmp_path / word) if word == "r" else word for word in verb]
    assert main([*words, "--decoder-url", "notaurl"]) == 2
    assert "'notaurl' is not the URL of a service; use e.g. http" in capsys.readouterr().err


def test_every_setting_is_described() -> None:
    assert not [name for name, field in TextConfig.model_fields.items() if not field.description]


@pytest.mark.parametrize("text", ["", " \n\n"])
def test_an_empty_file_is_no_settings_and_one_of_comments_is(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml: is empty"):
        load_yaml(file)
    file.write_text("# seed: 2\n")
    assert load_yaml(file) == {}


@pytest.mark.parametrize("text", [b"", b"\n", b"a b\n", b"a\nb\n", "tök".encode(), b"\xff"])
def test_a_file_without_a_token_is_named(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "token"
    file.write_bytes(text)
    with pytest.raises(ConfigError, match=r"token: (holds no token|the token cannot be read)"):
        read_token(file)
    file.write_bytes(b"  secret\n")
    assert read_token(file) == "secret" and read_token(None) is None
