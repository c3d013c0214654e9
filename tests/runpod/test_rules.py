"""The deployer keeps the rules of the house: it imports `shared` and no room, and its files are short."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "services" / "runpod" / "runpod_deployer"
ALLOWED = {*sys.stdlib_module_names, "httpx", "pydantic", "shared", "runpod_deployer"}


def test_it_imports_shared_and_no_room() -> None:
    for path in PACKAGE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert {name.split(".")[0] for name in names} <= ALLOWED, path.name


def test_no_file_is_too_long_to_read() -> None:
    assert all(len(path.read_text(encoding="utf-8").splitlines()) <= 320 for path in PACKAGE.glob("*.py"))
