"""What one run leaves for another: nothing, by any of the ways that processes share."""

from __future__ import annotations

import httpx
import pytest
from tests.security.cases import LIMITS, UNHURRIED

WAYS = {
    "a file in /tmp": (
        "open('/tmp/mail', 'w').write('left')", "open('/tmp/mail').read()"),
    "a file in /dev/shm": (
        "open('/dev/shm/mail', 'w').write('left')", "open('/dev/shm/mail').read()"),
    "a file where it works": (
        "open('mail', 'w').write('left')", "open('mail').read()"),
    "System V shared memory": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nid = libc.shmget(4711, 4096, 0o1666)\n"
        "libc.shmat.restype = ctypes.c_void_p\nif id >= 0:\n"
        "    ctypes.memmove(libc.shmat(id, None, 0), b'left', 4)",
        "(lambda c: c.CDLL(None).shmget(4711, 4096, 0) >= 0 and 'left')(__import__('ctypes'))"),
    "a System V semaphore": (
        "import ctypes\nctypes.CDLL(None).semget(4712, 1, 0o1666)",
        "(lambda c: c.CDLL(None).semget(4712, 1, 0) >= 0 and 'left')(__import__('ctypes'))"),
    "a POSIX message queue": (
        "import ctypes\nlibrt = ctypes.CDLL('librt.so.1')\nlibrt.mq_open(b'/mail', 0o102, 0o666, None)",
        "(lambda c: c.CDLL('librt.so.1').mq_open(b'/mail', 2) >= 0 and 'left')(__import__('ctypes'))"),
    "a kernel keyring": (
        "import ctypes\nctypes.CDLL(None).syscall(248, b'user', b'mail', b'left', 4, -4)",
        "(lambda c: c.CDLL(None).syscall(249, b'user', b'mail', None, -4) >= 0 and 'left')(__import__('ctypes'))"),
    "an abstract socket": (
        "import os, socket, time\nif os.fork() == 0:\n    os.setsid()\n    try:\n        s = socket.socket(socket.AF_UNIX)\n"
        "        s.bind('\\0mail')\n        s.listen()\n        time.sleep(30)\n    finally:\n        os._exit(0)\ntime.sleep(0.2)",
        "(lambda s: s.connect('\\0mail') or 'left')(__import__('socket').socket(1))"),
    "the heap": (
        "mail = 'le' + 'ft' + chr(33) * 3", "next((o for o in __import__('gc').get_objects() if o == 'left!!!'), '')"),
    "the environment": ("import os\nos.environ['MAIL'] = 'left'", "__import__('os').environ['MAIL']"),
    "a module": ("import sys\nsys.modules['mail'] = 'left'", "__import__('sys').modules['mail']"),
    "a builtin": ("import builtins\nbuiltins.mail = 'left'", "mail"),
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_left(sandbox: httpx.Client, way: str) -> None:
    leave, take = WAYS[way]
    limits = {**LIMITS, **UNHURRIED, "wall_s": 20}
    take = f"def f():\n    try:\n        return {take} or 'nothing'\n    except BaseException:\n        return 'nothing'"
    for _ in range(2):
        jobs = [
            {"program": f"try:\n{_indented(leave)}\nexcept OSError: pass\ndef f(): return 1", "tests": ["assert f() == 1"]},
            {"program": take, "tests": ["assert f() == 'nothing'"]},
        ]  # fmt: skip
        for job in jobs:  # one after the other, on one lane
            reply = sandbox.post("/v1/judge", json={"jobs": [{**job, "limits": limits}]})
            verdict = reply.json()["verdicts"][0]
        assert verdict["outcome"] == "passed", verdict


def _indented(text: str) -> str:
    return "\n".join("    " + line for line in text.splitlines())
