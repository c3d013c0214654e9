"""The interpreter's code in huge pages: the same code, for children too, and nothing where there are none."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from sandbox_service.inside.huge import HUGE
from sandbox_service.jails.jail import interpreter

ROOM = Path(__file__).resolve().parents[2] / "sandbox-service"
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_ADOPT = """
import ctypes, json, os, sys
sys.path.insert(0, sys.argv[1])
from sandbox_service.inside import huge
if sys.argv[2] == "without":
    assert ctypes.CDLL(None).prctl(41, 1, 0, 0, 0) == 0  # PR_SET_THP_DISABLE
wholes = list(huge._wholes())
before = [ctypes.string_at(start, huge.HUGE) for start in wholes]
moved = huge.adopt()
same = [ctypes.string_at(start, huge.HUGE) for start in wholes] == before
pid = os.fork()
if pid == 0:
    import decimal, re
    os._exit(7 if re.sub("a+", "b", "caat") == "cbt" and decimal.Decimal(2).sqrt() < 2 else 1)
with open("/proc/self/maps") as file:
    maps = [line.split(maxsplit=5) for line in file]
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(json.dumps({"wholes": wholes, "moved": moved, "same": same, "child": code, "maps": maps}))
"""


def adopted(how: str) -> dict[str, Any]:
    """Adopt in a process of the jail's interpreter, and fork a child that works."""
    command = [interpreter(), "-s", "-S", "-c", _ADOPT, ROOM, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def code_of(found: dict[str, Any], start: int) -> list[str]:
    """Return the mapping's words in which an address lies."""
    for words in found["maps"]:
        first, end = (int(part, 16) for part in words[0].split("-"))
        if first <= start < end:
            return [str(word) for word in words]
    raise AssertionError(f"{start:#x} is not mapped")


@pytest.mark.skipif(not THP.exists() or "[never]" in THP.read_text(), reason="this kernel has no huge pages")
def test_code_moves_into_huge_pages_and_is_the_same_for_children_too() -> None:
    found = adopted("with")
    if not found["wholes"]:
        pytest.skip("this interpreter's code fills no huge page where it lies")
    assert found["moved"] == len(found["wholes"])
    assert found["same"] and found["child"] == 7
    for start in found["wholes"]:
        words = code_of(found, start)
        assert start % HUGE == 0
        assert words[1] == "r-xp" and len(words) == 5, "executable, not to be written, and no file's"
    assert not [words for words in found["maps"] if "w" in words[1] and "x" in words[1]]


def test_where_no_huge_pages_are_given_the_code_stays_where_it_is() -> None:
    found = adopted("without")
    assert found["moved"] == 0
    assert found["same"] and found["child"] == 7
    assert all(code_of(found, start)[5] for start in found["wholes"])
