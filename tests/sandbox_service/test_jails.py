"""Programs that attack the jail they run in. After each, an honest program gets its honest answer."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from .conftest import SMALL

# What ends otherwise than by time has plenty of it: gVisor's CPU clock runs on while others are at work.
UNHURRIED = SMALL.model_copy(update={"cpu_s": 10, "wall_s": 15})
# name: (program, calls, the ends that are right)
ATTACKS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "leaves at import with 0": ("import os\nos._exit(0)", ("f(1)",), ("exited",)),
    "leaves at import by sys.exit": ("import sys\nsys.exit(0)", ("f(1)",), ("exited",)),
    "leaves by exec of true": ("import os\nos.execv('/usr/bin/true', ['true'])", ("f(1)",), ("exited",)),
    "dies by a signal": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", ("f(1)",), ("crashed",)),
    "overflows the C stack": (
        "import sys\nsys.setrecursionlimit(10**9)\nclass A: pass\nA.__call__ = A()\nA()()",
        ("f(1)",),
        ("crashed", "load_error", "memory"),
    ),
    "is not Python": ("'''an open quote", ("f(1)",), ("load_error",)),
    "is nested too deep": ("x = " + "(" * 5000 + ")" * 5000, ("f(1)",), ("load_error", "memory", "crashed")),
    "has a NUL": ("x = 1\0", ("f(1)",), ("load_error",)),
    "stops itself": ("import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)", ("f(1)",), ("timeout",)),
    "stops its group": ("import os, signal\nos.kill(0, signal.SIGSTOP)", ("f(1)",), ("timeout",)),
    "ignores every signal and loops": (
        "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\nwhile True: pass",
        ("f(1)",),
        ("timeout",),
    ),
    "computes in C for ever": ("x = 10 ** 10 ** 9", ("x",), ("timeout", "memory")),
    "fork bomb": ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", (), ("timeout",)),
    "fork chain": ("import os\nwhile True:\n    if os.fork(): os._exit(0)", (), ("exited",)),
    "memory bomb": ("x = []\nwhile True: x.append(bytearray(1 << 20))", (), ("memory",)),
    "memory bomb in children": (
        "import os, time\nfor _ in range(6):\n    if os.fork() == 0:\n        x = bytearray(100 << 20)\n"
        "        for i in range(0, len(x), 4096): x[i] = 1\n        time.sleep(20)\ntime.sleep(20)",
        (),
        ("memory", "timeout"),
    ),
    "output flood": ("while True: print('x' * 10000)", (), ("output_limit",)),
    "one endless line on stderr": (
        "import sys\nwhile True: sys.stderr.write('x' * 4096)",
        (),
        ("output_limit",),
    ),
    "closes every descriptor": (
        "import os\nos.closerange(0, 256)\ndef f(x): return x",
        ("f(1)",),
        ("exited",),
    ),
    "writes frames to every descriptor": (
        "import os, struct\n"
        "for fd in range(3, 64):\n"
        "    for frame in (struct.pack('!IcfI', 0, b'v', 0, 9) + b'[\"i\",\"1\"]', b'Z' * 60,\n"
        "                  struct.pack('!c16sI', b'Z', bytes(16), 38) + bytes(38)):\n"
        "        try: os.write(fd, frame)\n"
        "        except OSError: pass\n"
        "def f(x): return 1 / 0",
        ("f(1)",),
        ("crashed",),
    ),
    "answers more than it is asked": (
        "import os, struct\ndef f(x):\n"
        "    for i in range(50): os.write(4, struct.pack('!IcfI', i, b'v', 0, 5) + b'[\"N\"]')\n"
        "    return 1",
        ("f(1)",),
        ("crashed",),
    ),
    "kills its parent and everything": (
        "import os, signal\n"
        "for pid in (1, os.getppid(), -1):\n"
        "    for s in (signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGCHLD):\n"
        "        if pid == -1 and s != signal.SIGTERM: continue\n"
        "        try: os.kill(pid, s)\n"
        "        except OSError: pass\n",
        (),
        ("answered", "crashed"),
    ),
    "starves its zygote": (
        "import resource, os, ctypes\n"
        "for pid in (1, os.getppid()):\n"
        "    for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_CPU, resource.RLIMIT_AS):\n"
        "        try: resource.prlimit(pid, which, (1, 1))\n"
        "        except (OSError, ValueError): pass\n"
        "    try: os.setpriority(os.PRIO_PROCESS, pid, 19)\n"
        "    except OSError: pass\n"
        "    try: os.sched_setaffinity(pid, [])\n"
        "    except (OSError, ValueError): pass\n",
        (),
        ("answered",),
    ),
    "leaves daemons that keep its pipes": (
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0:\n        os.setsid()\n"
        "        if os.fork(): os._exit(0)\n        while True: time.sleep(1)\ndef f(x): return x",
        ("f(1)",),
        ("answered",),
    ),
    "leaves threads": (
        "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()\ndef f(x): return x",
        ("f(1)",),
        ("answered",),
    ),
    "leaves modules to be imported": (
        "import os, tempfile\nfor d in ('/tmp', '/dev/shm', os.getcwd(), tempfile.gettempdir()):\n"
        "    for m in ('math', 'json', 'struct', 'encodings'):\n"
        "        try: open(d + '/' + m + '.py', 'w').write('raise SystemExit')\n"
        "        except OSError: pass\n",
        (),
        ("answered",),
    ),
    "leaves a tree that cannot be entered": (
        "import os\nos.makedirs('a/b/c')\nopen('a/b/c/d', 'w').close()\nos.mkfifo('a/p')\n"
        "os.symlink('/', 'a/root')\nos.chmod('a/b', 0)\nos.chmod('a', 0)",
        (),
        ("answered",),
    ),
    "leaves a very deep tree": (
        "import os\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')",
        (),
        ("answered", "timeout"),  # Landlock walks every path from its end: quadratic
    ),
    "takes its folder away": (
        "import os\ntry: os.chmod(os.getcwd(), 0)\nexcept OSError: pass",
        (),
        ("answered",),
    ),
    "exhausts descriptors": (
        "import os\nfds = []\n"
        "try:\n    while True: fds.append(os.open('/dev/null', 0))\nexcept OSError: pass\n"
        "def f(x): return len(fds) < 200",
        ("f(1)",),
        ("answered",),
    ),
    "patches the harness": (
        "import sys, os, json, builtins\n"
        "for name, module in list(sys.modules.items()):\n"
        "    if name.startswith('sandbox_service'):\n"
        "        for key in list(vars(module)):\n"
        "            if not key.startswith('__'): setattr(module, key, lambda *a, **k: b'[\"i\",\"0x2a\"]')\n"
        "json.dumps = os.write = builtins.compile = builtins.eval = lambda *a, **k: 0\n"
        "def f(x): return 1",
        ("f(1)",),
        ("answered", "exited", "crashed", "timeout"),
    ),
    "raises what cannot be described": (
        "class E(BaseException):\n    def __str__(self): raise self\ndef f(x): raise E()",
        ("f(1)",),
        ("answered",),
    ),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_ends_as_it_should_and_the_next_program_is_judged_alike(cell: Any, name: str) -> None:
    program, calls, right = ATTACKS[name]
    ended = cell.run(program, *calls, limits=SMALL if "timeout" in right else UNHURRIED)
    assert ended.how in right, ended
    assert len(ended.answers) == len(calls)
    cell.is_honest()


def test_values_come_back_in_order_and_an_exception_keeps_the_others(cell: Any) -> None:
    ended = cell.run("def f(x):\n    return 6 // x", "f(1)", "f(0)", "f(3)")
    assert [answer.status for answer in ended.answers] == ["value", "raised", "value"]
    assert [answer.payload for answer in ended.answers] == [
        b'["i","0x6"]', b"ZeroDivisionError: integer division or modulo by zero", b'["i","0x2"]',
    ]  # fmt: skip


def test_leaving_inside_a_call_keeps_the_answers_before_it(cell: Any) -> None:
    ended = cell.run(
        "import os\ndef f(x):\n    return x if x < 3 else os._exit(0)", "f(1)", "f(2)", "f(3)", "f(4)"
    )
    assert ended.how == "exited"
    assert [answer.status for answer in ended.answers] == ["value", "value", "missing", "missing"]
    cell.is_honest()


def test_what_a_program_prints_is_data_and_never_an_answer(cell: Any) -> None:
    report = json.dumps({"passed": True, "how": "answered"})
    ended = cell.run(f"print({report!r})\nimport sys\nsys.stderr.write('PASSED')\nsys.exit(0)", "f(1)")
    assert (ended.how, ended.answers[0].status) == ("exited", "missing")
    assert report in ended.stdout_tail
    assert ended.stderr_tail == "PASSED"


@pytest.mark.parametrize(
    "program",
    [
        "import array, cmath, sys\ndef f(x):\n    return sys.getsizeof(array.array('i', [x])) > 0",
        "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\n"
        "def f(x):\n    return P(x) == P(x)",
        "def f(x):\r\n\tif x == 0:\r\n\t\treturn True\r\n\treturn f(x - 1)\r\nprint(f(900))\r\n",
        "n = 0\ndef f(x):\n    global n\n    n += x\n    return n == x",
        "if __name__ == '__main__':\n    raise SystemExit(1)\ndef f(x):\n    return True",
        "import threading, queue, asyncio\nasync def g(): return True\n"
        "def f(x):\n    return asyncio.run(g())",
        "import enum, typing, pickle\nclass C(enum.Enum):\n    A = 1\ndef f(x):\n"
        "    return pickle.loads(pickle.dumps(C.A)) is C.A",
        "import hashlib, uuid, csv, io, zoneinfo\n"
        "def f(x):\n    return len(hashlib.md5(b'').hexdigest()) == 32",
        "import subprocess\ndef f(x):\n    return subprocess.run(['/usr/bin/true']).returncode == 0",
    ],
)
def test_ordinary_programs_work(cell: Any, program: str) -> None:
    ended = cell.run(program, "f(2)")
    assert (ended.how, ended.answers[0].payload) == ("answered", b'["B",1]'), ended


def test_a_setup_runs_before_the_program_or_after_it_when_it_needs_its_names(cell: Any) -> None:
    before = cell.run("y = x + 1", "y", setup="x = 1")
    after = cell.run("class Node:\n    v = 7", "root.v", setup="root = Node()")
    assert [end.answers[0].payload for end in (before, after)] == [b'["i","0x2"]', b'["i","0x7"]']


def test_beside_statements_and_a_result_follow_the_calls(cell: Any) -> None:
    ended = cell.run("x = 3", "x", beside=("assert x == 3", "assert x == 4"), result="x")
    assert [answer.status for answer in ended.answers] == ["value", "value", "raised", "value"]
    assert ended.answers[2].payload.startswith(b"AssertionError")


def test_chance_is_the_same_in_every_run(cell: Any) -> None:
    program = (
        "import random\nx = [random.random(), sorted({'a', 'b', 'c'}, key=hash), list({'x', 'y', 'z', 'w'})]"
    )
    first, second = cell.run(program, "x"), cell.run(program, "x")
    assert first.answers[0].payload == second.answers[0].payload


def test_nothing_of_an_earlier_run_is_in_the_memory_of_the_next(cell: Any) -> None:
    marker = "".join(chr(ord("a") + byte % 26) for byte in os.urandom(24))
    cell.run(f"secret = '{marker[:12]}' + '{marker[12:]}'\nprint(secret)\ndef f(): return secret", "f()")
    # Only the halves travel: the whole must not stand in this program's own text.
    scan = (
        "import re\nfound = []\nwanted = (a + b).encode()\n"
        "with open('/proc/self/maps') as maps:\n    spans = [line.split()[0:2] for line in maps]\n"
        "with open('/proc/self/mem', 'rb') as memory:\n"
        "    for span, rights in spans:\n"
        "        if 'r' not in rights: continue\n"
        "        low, high = (int(end, 16) for end in span.split('-'))\n"
        "        try:\n            memory.seek(low)\n            data = memory.read(high - low)\n"
        "        except (OSError, ValueError, OverflowError):\n            continue\n"
        "        found.append(data.count(bytes(reversed(wanted))))\n"
    )
    ended = cell.run(f"a = '{marker[::-1][:12]}'\nb = '{marker[::-1][12:]}'\n{scan}", "sum(found)")
    if ended.how == "load_error" and ("PermissionError" in ended.detail or "Errno 2" in ended.detail):
        return  # this jail does not even let a program read its own memory that way
    assert ended.answers[0].payload == b'["i","0x0"]', ended


def test_the_environment_holds_nothing_of_the_service(cell: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = cell.run("import os\nnames = sorted(os.environ)", "names")
    known = {"PATH", "LANG", "PYTHONHASHSEED", "HOME", "TMPDIR", "LC_CTYPE"}
    names = {json_text[1] for json_text in json.loads(ended.answers[0].payload)[1]}
    assert names <= known


def test_files_and_processes_of_this_machine_stay_out_of_reach(cell: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o600)
    for path in (secret, "/etc/shadow", f"/proc/{os.getpid()}/environ", "/proc/1/environ", "/proc/1/mem"):
        ended = cell.run(f"def f():\n    return open({str(path)!r}, 'rb').read(10)", "f()")
        assert ended.answers[0].status == "raised", (path, ended)
