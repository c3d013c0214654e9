"""The rules of the house that a machine can check: who imports whom, how long a file is, what is pinned."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import copy, copytree, ignore_patterns
from typing import Any

import pytest

# In the standard library from Python 3.11 on; the rules need to be checked on one version only.
tomllib = pytest.importorskip("tomllib")

REPO = Path(__file__).resolve().parent.parent
ROOMS = {
    "shared": "shared/shared",
    "decoder_service": "decoder-service/decoder_service",
    "sandbox_service": "sandbox-service/sandbox_service",
    "trainer": "trainer/trainer",
}
# Only services import these; everything else in `shared` must be light enough for every room and every jail.
SERVICE_MODULES = {"service", "settings", "problems", "door", "pages", "logs", "server"}
LIGHT = {"pydantic", "pydantic_core", "httpx", "anyio", "typing_extensions", "annotated_types"}
MAX_LINES = 320


def sources(room: str) -> list[Path]:
    return sorted(path for path in (REPO / ROOMS[room]).rglob("*.py") if "__pycache__" not in path.parts)


def imports(path: Path) -> Iterator[str]:
    """Every module a file imports, wherever in it, also by import_module("...") and __import__("...")."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (name.name for name in names)
            case ast.ImportFrom(module=module, level=0) if module:
                yield module
            case ast.ImportFrom(level=level) if level:
                yield "relative import"
            case ast.Call(
                func=ast.Attribute(attr="import_module") | ast.Name(id="import_module" | "__import__"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                yield name


def project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
    return found


# --- imports -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_shared_and_no_other_room(room: str) -> None:
    others = set(ROOMS) - {"shared", room}
    wrong = [
        f"{path.relative_to(REPO)}: {name}"
        for path in sources(room)
        for name in imports(path)
        if name.split(".")[0] in others or name == "relative import"
    ]
    assert not wrong


def test_shared_is_light_outside_the_service_modules() -> None:
    allowed = set(sys.stdlib_module_names) | LIGHT
    heavy = {f"shared.{name}" for name in SERVICE_MODULES}
    wrong = []
    for path in sources("shared"):
        if path.stem in SERVICE_MODULES:
            continue
        for name in imports(path):
            is_ours = name.split(".")[0] == "shared"
            if name in heavy or not (is_ours or name.split(".")[0] in allowed):
                wrong.append(f"{path.name}: {name}")
    assert not wrong


def test_no_service_module_imports_a_model_library_or_docker() -> None:
    banned = {"torch", "transformers", "docker", "numpy"}
    assert not [(path.name, name) for path in sources("shared") for name in imports(path) if name in banned]


def test_only_the_jail_called_docker_knows_docker() -> None:
    wrong = [
        str(path.relative_to(REPO))
        for room in ROOMS
        for path in sources(room)
        if "docker" in {name.split(".")[0] for name in imports(path)} and path.stem != "docker"
    ]
    assert not wrong


def test_what_runs_in_the_jail_is_stdlib_only() -> None:
    inside = REPO / ROOMS["sandbox_service"] / "inside"
    allowed = set(sys.stdlib_module_names) | {"shared.sequence_dsl"}
    wrong = [
        f"{path.name}: {name}"
        for path in sorted(inside.rglob("*.py"))
        for name in imports(path)
        if name not in allowed
        and name.split(".")[0] not in sys.stdlib_module_names
        and not name.startswith("sandbox_service.inside")
    ]
    assert not wrong


def test_importing_the_contract_loads_nothing_heavy() -> None:
    code = (
        "import sys, shared.wire, shared.errors, shared.clients\n"
        "print(*sorted(set(sys.modules) & {'torch', 'fastapi', 'starlette', 'numpy', 'docker', 'uvicorn'}))"
    )
    environment = {"PYTHONPATH": str(REPO / "shared"), "PATH": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


# --- size --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("room", ROOMS)
def test_no_file_is_too_long_to_read(room: str) -> None:
    long = {
        str(path.relative_to(REPO)): count
        for path in sources(room)
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > MAX_LINES
    }
    assert not long


# --- dependencies ------------------------------------------------------------------------------------


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[ \[<>=!~;]", name.strip(), maxsplit=1)[0]).lower()


def direct() -> set[str]:
    table = project()["project"]
    lists = [
        table["dependencies"],
        *table["optional-dependencies"].values(),
        project()["build-system"]["requires"],
    ]
    return {normal(item) for items in lists for item in items} - {"psuedoptimal"}


def pins() -> dict[str, str]:
    lines = (REPO / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line.strip() and not line.startswith("#")]
    assert all(len(pair) == 2 for pair in pairs), "constraints.txt holds exact pins only"
    return {normal(name): version for name, version in pairs}


def test_every_direct_dependency_is_pinned() -> None:
    assert not direct() - set(pins())


def test_every_pin_is_a_direct_dependency() -> None:
    assert not set(pins()) - direct()


def test_every_third_party_import_is_a_direct_dependency() -> None:
    """Where the import's name is not the package's, the table says which package it is."""
    packages = {
        "yaml": "pyyaml",
        "python_minifier": "python-minifier",
        "prometheus_client": "prometheus-client",
    }
    needed = {
        normal(packages.get(top, top))
        for room in ROOMS
        for path in sources(room)
        for top in {name.split(".")[0] for name in imports(path)}
        if top not in sys.stdlib_module_names and top not in ROOMS
    }
    # fastapi, uvicorn and pydantic bring these with them, as parts of their own interface.
    brought = {"starlette", "h11", "pydantic-core", "typing-extensions", "anyio"}
    assert not needed - direct() - brought


# --- wheels ------------------------------------------------------------------------------------------


# What a room needs beside its package, and where its wheel holds it.
BESIDE = {
    "decoder-service/starter": "decoder_service/starter",
    "trainer/configs": "trainer/configs",
    "trainer/starter": "trainer/starter/weights",
    "trainer/starter/program": "trainer/starter/weights/program",
}


def build_wheel(room: str, tmp_path: Path) -> Path:
    """Build a wheel from `shared` and one room only, as an image does; offline."""
    source, out = tmp_path / "source", tmp_path / "wheel"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        copy(REPO / name, source)
    for folder in {Path(ROOMS["shared"]).parts[0], Path(ROOMS[room]).parts[0]}:
        copytree(REPO / folder, source / folder, ignore=ignore_patterns("__pycache__", "*.egg-info"))
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl"))


@pytest.mark.slow
@pytest.mark.parametrize("room", ROOMS)
def test_each_rooms_wheel_can_be_built_and_imported_alone(room: str, tmp_path: Path) -> None:
    wheel, target = build_wheel(room, tmp_path), tmp_path / "site"
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "--target", str(target), str(wheel)], check=True, capture_output=True)
    here = sorted(path.name for path in target.iterdir() if path.name in ROOMS)
    assert here == sorted({"shared", room})
    for folder, place in BESIDE.items():
        if folder.startswith(Path(ROOMS[room]).parts[0]):
            wanted = {path.name for path in (REPO / folder).glob("*") if path.is_file()}
            assert wanted <= {path.name for path in (target / place).glob("*")}, (
                f"{folder} is not in the wheel"
            )
    # Every module, not only the first: a wheel that forgets a data file or a subpackage must not pass.
    modules = sorted(
        ".".join((room, *path.relative_to(REPO / ROOMS[room]).with_suffix("").parts))
        for path in sources(room)
        if path.stem not in ("__init__", "__main__")
    )
    code = (
        "import importlib, sys\n"
        f"sys.path.insert(0, {str(target)!r})\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        f"import {room}; assert {room}.__file__.startswith({str(target)!r}), {room}.__file__\n"
        f"for other in {sorted(set(ROOMS) - {'shared', room})!r}:\n"
        "    assert other not in sys.modules, other\n"
    )
    # -I keeps the repository off the path; an editable install may still offer other rooms, which is why
    # the file's place and sys.modules are checked.
    done = subprocess.run([sys.executable, "-I", "-c", code], cwd=target, capture_output=True, text=True,
                          env={"PATH": "", "OMP_NUM_THREADS": "1", "HOME": str(tmp_path)})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
