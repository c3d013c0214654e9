"""Every limit bites at its place, says its name, and is measured outside the program."""

from __future__ import annotations

from typing import Any

import pytest

from shared.wire import Limits


def limits(**changed: Any) -> Limits:
    """Limits that only the one under test can reach."""
    roomy = {"cpu_s": 10, "wall_s": 20, "memory_mb": 256, "output_kb": 64, "file_mb": 1, "processes": 16}
    return Limits(**{**roomy, **changed})


def test_cpu_time_ends_a_loop_near_its_limit(cell: Any) -> None:
    ended = cell.run("while True: pass", limits=limits(cpu_s=0.4, wall_s=120))
    assert (ended.how, ended.starved) == ("timeout", False)
    assert "CPU" in ended.detail
    assert 380 <= ended.cpu_ms <= 1200


def test_cpu_time_of_children_counts_once_they_are_dead(cell: Any) -> None:
    program = (
        "import os\nwhile True:\n    pid = os.fork()\n"
        "    if not pid:\n        sum(range(10**7)); os._exit(0)\n    os.waitpid(pid, 0)"
    )
    ended = cell.run(program, limits=limits(cpu_s=1, wall_s=120))
    assert ended.how == "timeout"


def test_sleeping_ends_at_the_wall_limit_and_costs_no_cpu(cell: Any) -> None:
    ended = cell.run("import time\ntime.sleep(60)", limits=limits(wall_s=0.4))
    assert ended.how == "timeout"
    assert "wall" in ended.detail
    assert 400 <= ended.wall_ms <= 1500
    assert ended.cpu_ms < 300


def test_a_patched_clock_changes_no_measurement(cell: Any) -> None:
    program = (
        "import time\nreal = time.sleep\n"
        "time.time = time.monotonic = time.perf_counter = lambda: 0.0\ndef f():\n    real(0.2)\n    return 1"
    )
    ended = cell.run(program, "f()", limits=limits())
    assert ended.wall_ms >= 200


@pytest.mark.parametrize("memory_mb", [32, 64, 256])
def test_memory_is_given_up_to_the_limit_and_not_beyond(cell: Any, memory_mb: int) -> None:
    within = cell.run(
        f"x = bytearray({memory_mb - 12} << 20)", "len(x) > 0", limits=limits(memory_mb=memory_mb)
    )
    beyond = cell.run(f"x = bytearray({memory_mb + 1} << 20)", "1", limits=limits(memory_mb=memory_mb))
    assert within.how == "answered", within
    assert beyond.how == "memory", beyond


def test_memory_that_runs_out_in_a_call_is_told_by_name(cell: Any) -> None:
    ended = cell.run("def f():\n    return bytearray(1 << 31)", "f()", limits=limits())
    assert (ended.how, ended.answers[0].status) == ("answered", "raised")
    assert ended.answers[0].payload.startswith(b"MemoryError")


def test_output_may_reach_its_limit_and_not_pass_it(cell: Any) -> None:
    exactly = cell.run(
        "import sys\nsys.stdout.write('x' * 65000)\nsys.stderr.write('y' * 536)", "1", limits=limits()
    )
    beyond = cell.run(
        "import sys\nsys.stdout.write('x' * 65001)\nsys.stderr.write('y' * 536)", "1", limits=limits()
    )
    assert exactly.how == "answered", exactly
    assert beyond.how == "output_limit", beyond


def test_honest_output_of_ten_megabytes_is_no_timeout(cell: Any) -> None:
    ended = cell.run(
        "for _ in range(1000): print('x' * 10000)\nprint('end')", "1", limits=limits(output_kb=11000)
    )
    assert ended.how == "answered", ended
    assert ended.stdout_tail.endswith("x\nend\n")


def test_a_file_ends_at_its_limit(cell: Any) -> None:
    program = "def f(n):\n    with open('big', 'wb') as file:\n        file.write(bytes(n))\n    return n"
    ended = cell.run(program, "f(1 << 20)", "f((1 << 20) + 1)", limits=limits(file_mb=1))
    assert [answer.status for answer in ended.answers] == ["value", "raised"]


def test_processes_are_counted_with_the_program_itself(cell: Any) -> None:
    program = (
        "import os, time\ndef f():\n    n = 1\n    try:\n        while True:\n"
        "            if os.fork() == 0: time.sleep(30)\n            n += 1\n"
        "    except BlockingIOError:\n        return n"
    )
    ended = cell.run(program, "f()", limits=limits(processes=5))
    assert ended.answers[0].payload == b'["i","0x5"]', ended
    again = cell.run("import os\nwhile True: os.fork()", limits=limits(processes=5))
    assert again.how == "process_limit"


@pytest.mark.parametrize(
    "text",
    [
        "x = 'a' * (3 << 20)",
        "x = [[]]\nfor _ in range(5000): x = [x]",
        "x = 1 << 10**6",
        "x = list(range(10**6))",
    ],
)
def test_an_answer_over_the_codecs_budget_ends_nothing_else(cell: Any, text: str) -> None:
    ended = cell.run(text, "x", "1", limits=limits())
    assert ended.how == "answered", ended
    assert ended.answers[1].payload == b'["i","0x1"]'


def test_answers_that_are_too_many_bytes_together_are_an_output_limit(cell: Any) -> None:
    ended = cell.run("x = 'a' * 700_000", *["x"] * 40, limits=limits(memory_mb=512))
    assert ended.how == "output_limit", ended.how
    cell.is_honest()


def test_a_thousand_calls_are_answered(cell: Any) -> None:
    ended = cell.run("def f(x): return x * x", *[f"f({n})" for n in range(1000)], limits=limits())
    assert ended.how == "answered"
    assert ended.answers[999].payload == b'["i","0xf3a71"]'


def test_a_program_larger_than_a_pipe_arrives_whole(cell: Any) -> None:
    ended = cell.run("x = 1\n" + "# \ud800 a long comment, é\n" * 8000 + "x += 1", "x", limits=limits())
    assert ended.how == "load_error" or ended.answers[0].payload == b'["i","0x2"]'
    plain = cell.run("x = 1\n" + "# a long comment, é\n" * 9000 + "x += 1", "x", limits=limits())
    assert plain.answers[0].payload == b'["i","0x2"]'
