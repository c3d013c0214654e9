"""Settings that cannot be used stop the start with one line: variable, value, way out."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from pydantic import ValidationError

from shared.settings import is_loopback


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOST", "PORT", "TOKEN", "TOKEN_FILE", "DRAIN_S", "LOG_LEVEL"):
        monkeypatch.delenv(f"ECHO_{name}", raising=False)


def refusal(echo: ModuleType, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as caught:
        echo.EchoSettings.load()
    assert caught.value.code == 2
    return capsys.readouterr().err.strip()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("PORT", "80x", "ECHO_PORT='80x': Input should be a valid integer"),
        ("PORT", "70000", "ECHO_PORT='70000': Input should be less than or equal to 65535"),
        ("DRAIN_S", "-1", "ECHO_DRAIN_S='-1'"),
        ("LOG_LEVEL", "loud", "ECHO_LOG_LEVEL='loud'"),
        ("HOST", "0.0.0.0", "set ECHO_TOKEN_FILE to a file that holds one, or ECHO_HOST=127.0.0.1"),
        ("HOST", "::", "ECHO_HOST='::'"),
        ("HOST", "my-host", "ECHO_HOST='my-host'"),
        ("TOKEN_FILE", "/nowhere/token", "ECHO_TOKEN_FILE='/nowhere/token': cannot be read"),
    ],
)
def test_a_bad_value_is_one_line_with_the_way_out(
    echo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    name: str, value: str, words: str,
) -> None:  # fmt: skip
    monkeypatch.setenv(f"ECHO_{name}", value)
    said = refusal(echo, capsys)
    assert words in said
    assert len(said.splitlines()) == 1


def test_a_bad_token_is_not_shown(
    echo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECHO_TOKEN", "two words")
    assert "two words" not in refusal(echo, capsys)
    monkeypatch.setenv("ECHO_TOKEN", "good-token")
    monkeypatch.setenv("ECHO_PORT", "x")
    assert "good-token" not in refusal(echo, capsys)


def test_an_empty_token_is_no_token(
    echo: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ECHO_TOKEN", "")
    assert echo.EchoSettings().secret() is None
    with pytest.raises(ValidationError, match="needs a token"):
        echo.EchoSettings(host="0.0.0.0", token="")
    empty = tmp_path / "token"
    empty.write_text("\n")
    with pytest.raises(ValidationError, match="the file is empty"):
        echo.EchoSettings(token_file=empty)


def test_a_misspelt_variable_is_refused_and_a_foreign_one_left_alone(
    echo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ECHO_SOMETHING_ELSE", "5")
    monkeypatch.setenv("ECHO_URL", "http://127.0.0.1:8001")
    echo.EchoSettings.load()
    monkeypatch.setenv("ECHO_DRIAN_S", "5")
    with pytest.raises(SystemExit) as ended:
        echo.EchoSettings.load()
    said = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert said == ["ECHO_DRIAN_S: no such setting; did you mean ECHO_DRAIN_S?"]


def test_a_token_is_not_shown_by_the_settings(echo: ModuleType) -> None:
    settings = echo.EchoSettings(token="hush-hush", host="0.0.0.0")
    assert "hush" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert settings.secret() == "hush-hush"


def test_settings_are_frozen(echo: ModuleType) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        echo.EchoSettings().port = 1


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "LocalHost", "::1", "[::1]"])
def test_loopback_is_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "127.0.0.1.example", "10.0.0.1", "localhost.example"])
def test_all_else_is_beyond_this_machine(host: str) -> None:
    assert not is_loopback(host)
