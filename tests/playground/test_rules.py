"""The rules of the house: whom the playground imports, how long its files are, what its wheel holds."""

from __future__ import annotations

import ast
import zipfile
from collections.abc import Iterator
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from subprocess import run
from sys import executable

import pytest

PAGE = Path("services/playground/playground")
ROOMS = {
    "shared": "shared/shared",
    "decoder_service": "decoder-service/decoder_service",
    "sandbox_service": "sandbox-service/sandbox_service",
    "trainer": "trainer/trainer",
}
MAX_LINES = 320


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=module, level=0) if module:
                yield from (f"{module}.{name.name}" for name in node.names)
            case ast.ImportFrom():
                yield "relative import"


def test_the_playground_reads_runs_and_measures_and_imports_nothing_else_of_a_room(repo: Path) -> None:
    found = [(file.name, name) for file in (repo / PAGE).glob("*.py") for name in imports(file)]
    assert len(found) > 100
    wrong = [
        (file, name)
        for file, name in found
        if name == "relative import"
        or (
            name.split(".")[0] in ("decoder_service", "sandbox_service", "torch", "transformers")
            and (file, name) != ("talk.py", "torch")
        )
        or (name.startswith("trainer") and not name.startswith(("trainer.runs.", "trainer.measure.")))
    ]
    assert not wrong


def test_no_room_imports_the_playground(repo: Path) -> None:
    files = [file for folder in ROOMS.values() for file in (repo / folder).rglob("*.py")]
    assert not [file for file in files if any(name.split(".")[0] == "playground" for name in imports(file))]


def test_no_file_is_too_long_to_read(repo: Path) -> None:
    files = [
        *(repo / PAGE).glob("*.py"),
        *(repo / PAGE / "assets").iterdir(),
        *(repo / PAGE / "templates").rglob("*.html"),
    ]
    assert not [file for file in files if len(file.read_text(encoding="utf-8").splitlines()) > MAX_LINES]


@pytest.mark.slow
def test_the_wheel_holds_the_templates_and_the_assets(repo: Path, tmp_path: Path) -> None:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy(repo / name, tmp_path)
    copytree(
        repo / "services/playground", tmp_path / "services/playground", ignore=ignore_patterns("__pycache__")
    )
    command = [
        executable,
        "-m",
        "hatchling",
        "build",
        "--target",
        "wheel",
        "--directory",
        str(tmp_path / "out"),
    ]
    done = run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    held = set(zipfile.ZipFile(next((tmp_path / "out").glob("*.whl"))).namelist())
    wanted = {file.relative_to(repo / PAGE.parent).as_posix() for file in (repo / PAGE).rglob("*.*")}
    assert {name for name in wanted if "__pycache__" not in name} <= held
