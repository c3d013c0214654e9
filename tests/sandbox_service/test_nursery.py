"""Children that wait are out of reach of the run beside them, and nothing outlives a run."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import SMALL

HOSTILE = """
import os, resource, signal
done = []
def tries(name, act):
    try:
        act()
        done.append(name)
    except OSError:
        pass
try:
    names = [name for name in os.listdir('/proc') if name.isdigit()]
except OSError:
    names = []  # a jail without a process namespace shows none
for name in names:
    pid = int(name)
    if pid in (1, os.getpid()):
        continue
    tries('kill', lambda: os.kill(pid, signal.SIGKILL))
    tries('stop', lambda: os.kill(pid, signal.SIGSTOP))
    tries('renice', lambda: os.setpriority(os.PRIO_PROCESS, pid, 19))
    tries('pin', lambda: os.sched_setaffinity(pid, {0}))
    tries('limit', lambda: resource.prlimit(pid, resource.RLIMIT_CPU, (1, 1)))
    tries('write', lambda: open('/proc/%d/mem' % pid, 'r+b').close())
    for fd in range(64):
        tries('descriptor', lambda: os.open('/proc/%d/fd/%d' % (pid, fd), os.O_RDWR))
try:
    os.kill(-1, signal.SIGSTOP)  # Linux says yes to it even where it was let at none
except OSError:
    pass
"""
LEAVES = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        while True:
            try:
                open('/tmp/alive', 'a').write('x')
            except OSError:
                pass
            time.sleep(0.001)
    os._exit(0)
"""
SEEN = """
import os, time
time.sleep(0.05)  # those that were just forked become what they are to be
pids = [int(name) for name in os.listdir('/proc') if name.isdigit()]
uids = []
for pid in pids:
    with open('/proc/%d/status' % pid) as file:
        uids += [int(line.split()[1]) for line in file if line.startswith('Uid:')]
files = os.listdir('/tmp')
"""


def test_those_that_wait_cannot_be_touched(cell: Any) -> None:
    for _ in range(10):  # more than one batch
        ended = cell.run(HOSTILE, "done")
        assert (ended.how, ended.answers[0].payload) == ("answered", b'["l",[]]'), ended
        cell.is_honest()


def test_what_a_run_leaves_is_dead_before_the_next_and_costs_only_those_that_waited(cell: Any) -> None:
    if cell.pool.jail.name != "bwrap":
        pytest.skip("only a process namespace shows a run all there is")
    before = cell.pool.counts.recycled
    for _ in range(6):
        assert cell.run(LEAVES).how == "answered"
        seen = cell.run(SEEN, "uids", "files", "os.getuid()")
        uids, files, own = (json.loads(answer.payload)[1] for answer in seen.answers)
        assert files == []
        others = [int(uid, 16) for _, uid in uids]
        assert others.count(0) == 1, "only the zygote is root"
        assert len(set(others)) == len(others), "each child has a uid of its own"
        assert int(own, 16) in others
    assert cell.pool.counts.recycled == before, "the jail itself went on"


def test_a_run_is_not_charged_for_those_that_wait(cell: Any) -> None:
    limits = SMALL.model_copy(update={"cpu_s": 10, "wall_s": 15})
    program = (
        "import time\ntime.sleep(0.3)\nx = bytearray(100 << 20)\ncpu_ms = int(1e3 * time.process_time())"
    )
    ended = cell.run(program, "cpu_ms", limits=limits)
    assert ended.how == "answered", ended
    if "gVisor" in cell.pool.jail.layers[0]:
        # There the pages of 100 MiB alone take a quarter of a second of a busy processor, and its CPU clock
        # runs on while others are at work: no more than the time in which the run did not sleep.
        assert ended.cpu_ms < max(1000, ended.wall_ms - 300), ended
        return
    # Those pages can take as long on a slow machine: what counts is what the run has used by its own clock.
    own = int(json.loads(ended.answers[0].payload)[1], 16)
    assert own <= ended.cpu_ms + 1 and ended.cpu_ms < own + 100, (own, ended)
