"""A wrong setting ends the start with one line that names it."""

from __future__ import annotations

from pathlib import Path

import pytest

from playground.settings import PlaygroundSettings


@pytest.mark.parametrize(
    "url",
    [
        "http://localhost:80o1", "http://:8001", "http://here:99999", "http://here:-1", "http://[::1",
        "here:8001", "http://a..b", "http://" + "a" * 300,
    ],
)  # fmt: skip
@pytest.mark.parametrize("room", ["DECODER", "SANDBOX"])
def test_an_address_that_can_never_be_asked_stops_the_start(
    room: str, url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(f"PLAYGROUND_{room}_URL", url)
    with pytest.raises(SystemExit) as stopped:
        PlaygroundSettings.load()
    line, rest = capsys.readouterr().err.split("\n", 1)
    assert stopped.value.code == 2 and not rest
    assert line.startswith(f"PLAYGROUND_{room}_URL={url[:190]!r}"[:150]) and "correct it or unset it" in line


@pytest.mark.parametrize("held", ["se cret", "sécret", "se\ncret", "\n", ""])
def test_a_file_without_a_token_stops_the_start_and_stays_secret(
    held: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "token"
    file.write_text(held, encoding="utf-8")
    monkeypatch.setenv("PLAYGROUND_SANDBOX_TOKEN_FILE", str(file))
    with pytest.raises(SystemExit) as stopped:
        PlaygroundSettings.load()
    line, rest = capsys.readouterr().err.split("\n", 1)
    assert stopped.value.code == 2 and not rest and "cret" not in line.replace(str(file), "")
    assert line.startswith(f"PLAYGROUND_SANDBOX_TOKEN_FILE={str(file)!r}: ") and "into it" in line
