"""Imports while the collector rests, which leaves alone what they brought; and an end that frees nothing."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from shared.starting import load


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "looks_around.py").write_text("import gc\ncollects = gc.isenabled()\n")
    (tmp_path / "fails.py").write_text("raise RuntimeError('x')\n")
    for name in ("looks_around", "fails"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "looks_around"


def test_the_collector_rests_during_an_import_and_works_afterwards(module: str) -> None:
    assert load(module).collects is False
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off(module: str) -> None:
    gc.disable()
    try:
        load(module)
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_it_brought_is_not_looked_at_again_and_what_comes_later_is(module: str) -> None:
    before = gc.get_freeze_count()
    load(module)
    frozen = gc.get_freeze_count()
    assert frozen > before
    later: list[object] = []
    later.append(later)
    load(module)  # which is there already: nothing that was made since is kept
    assert any(found is later for found in gc.get_objects())
    assert gc.get_freeze_count() <= frozen  # another thread may have dropped one of them since


def test_it_works_again_after_an_import_that_failed(module: str) -> None:
    with pytest.raises(RuntimeError, match="x"):
        load("fails")
    assert gc.isenabled()


def ended(text: str, **how: Any) -> subprocess.CompletedProcess[str]:
    """Run `main` of a text as the whole work of a process."""
    code = f"import atexit, os, sys, threading, time\nfrom shared.starting import run\n{text}\nrun(main)\n"
    command = [sys.executable, "-c", code]
    how = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run(command, env=buffered, text=True, timeout=60, check=False, **how)


@pytest.mark.parametrize(
    ("end", "code", "said"),
    [
        ("return 0", 0, ""),
        ("return 3", 3, ""),
        ("return None", 0, ""),
        ("sys.exit()", 0, ""),
        ("sys.exit(2)", 2, ""),
        ("sys.exit('no')", 1, "no\n"),
        ("return 2**40 + 5", 5, ""),
        (
            "threading.Thread(target=time.sleep, args=(1,)).start()\n"
            "    threading.Timer(0.3, os.kill, (os.getpid(), 2)).start()\n    return 3",
            3,
            "",
        ),
    ],
)
def test_a_process_ends_with_the_code_that_main_gives_or_asks_for(end: str, code: int, said: str) -> None:
    done = ended(f"def main():\n    print('done')\n    {end}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "done\n", said)


def test_an_exception_goes_its_ordinary_way() -> None:
    done = ended("def main():\n    raise ValueError('x')")
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and done.stderr.endswith("ValueError: x\n")


def test_what_has_to_end_with_a_process_ends_and_nothing_is_taken_apart() -> None:
    done = ended(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "class Kept:\n"
        "    def __del__(self): print('taken apart', flush=True)\n"
        "kept, pool = Kept(), ThreadPoolExecutor(1)\n"
        "def later(word):\n"
        "    time.sleep(0.2)\n"
        "    print(word)\n"
        "def main():\n"
        "    atexit.register(print, 'at the end')\n"
        "    threading.Thread(target=later, args=('a thread',)).start()\n"
        "    pool.submit(later, 'a worker')\n"
    )
    *first, last = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(first) == ["a thread", "a worker"] and last == "at the end"


def test_who_put_something_in_the_place_of_exit_is_told_the_code() -> None:
    done = ended(
        "def main():\n"
        "    ordinary = sys.exit\n"
        "    sys.exit = lambda code: (print('told', code), ordinary(code))\n"
        "    return 3"
    )
    assert (done.returncode, done.stdout) == (3, "told 3\n")


def test_what_was_printed_is_there_however_long_the_end_takes() -> None:
    code = "from shared.starting import run\nimport threading, time\ndef main():\n    print('the result')\n"
    code += "    threading.Thread(target=time.sleep, args=(60,)).start()\nrun(main)"
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=buffered) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"the result\n"
        process.kill()


def test_what_c_prints_comes_out_and_what_is_no_stream_is_no_failure() -> None:
    done = ended(
        "import ctypes\nclass Odd:\n    def flush(self): pass\n"
        "def main():\n    ctypes.CDLL(None).puts(b'from C')\n    sys.stdout = Odd()\n    return 0"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "from C\n", "")


def test_output_that_cannot_be_written_is_a_failure_and_told() -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = ended("def main():\n    print('x')", stdout=full)
    assert done.returncode == 1
    assert done.stderr == "the output could not be written: [Errno 28] No space left on device\n"
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = ended("def main():\n    print('x')\n    return 3", stdout=full, stderr=full)
    assert done.returncode == 3


def test_a_reader_that_went_away_is_told_nothing() -> None:
    read, write = os.pipe()
    os.close(read)
    done = ended("def main():\n    print('x')", stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")
