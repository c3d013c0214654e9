"""The service attacks its own jail before it takes work, and says what held.

Each probe is a program that tries to get out or past a limit. A probe shows that one way is closed on this
machine today; it does not show that there is no other.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from sandbox_service.decode import CodecError, decode
from sandbox_service.pool import Pool
from sandbox_service.run import Ended, How, Run
from sandbox_service.settings import STRENGTH, Isolation
from shared.errors import NoAnswer
from shared.wire import Limits, Probe

_LIMITS = Limits(cpu_s=2, wall_s=6, memory_mb=256, output_kb=64, file_mb=1, processes=8)


@dataclass(frozen=True)
class Attempt:
    """One attempt: a run, what its end must look like, and the weakest jail that must stand it."""

    name: str
    run: Run
    held: Callable[[Ended], bool]
    needed: Isolation = "process-same-uid"


def _asks(name: str, program: str, needed: Isolation = "process-same-uid") -> Attempt:
    """An attempt that itself says whether the jail held: `found()` returns what it got hold of, else ''."""
    return Attempt(name, Run(program, "", ("found()",), _LIMITS), lambda ended: _value(ended) == "", needed)


def _ends(name: str, program: str, how: tuple[How, ...], **limits: float) -> Attempt:
    run = Run(program, "", (), Limits(**{**_LIMITS.model_dump(), **limits}))
    return Attempt(name, run, lambda ended: ended.how in how, "rlimits")


def _value(ended: Ended) -> object:
    if ended.how != "answered" or ended.answers[0].status != "value":
        return None
    try:
        return decode(ended.answers[0].payload)
    except CodecError:
        return None


_SECRET = """
def found():
    try:
        return open({path!r}).read()
    except OSError:
        return ''
"""
_ENVIRONMENT = """
import os
def found():
    got = []
    for pid in [str(number) for number in (1, os.getppid(), {pid})]:
        for name in ('environ', 'mem', 'maps'):
            try:
                with open('/proc/' + pid + '/' + name, 'rb') as file:
                    if name == 'mem' or file.read():
                        got.append(pid + '/' + name)
            except OSError:
                pass
    return ' '.join(got + [name for name in os.environ if name.startswith('SANDBOX_')])
"""
_NETWORK = """
import socket
def found():
    got = []
    for address in (('127.0.0.1', {port}), ('169.254.169.254', 80)):
        try:
            socket.create_connection(address, timeout=1).close()
            got.append(address[0])
        except OSError:
            pass
    for family, kind in ((17, 3), (16, 3), (38, 5), (40, 1)):
        try:
            socket.socket(family, kind).close()
            got.append('family %d' % family)
        except OSError:
            pass
    return ' '.join(got)
"""
_WRITE = """
import os
def found():
    got = []
    folders = ('/', '/etc', '/usr', '/usr/lib', '/dev', '/proc/sys/kernel', '/var/tmp', '/run')
    for folder in (*folders, {home!r}, {here!r}):
        path = folder + '/{left}'
        try:
            open(path, 'w').close()
            os.unlink(path)
            got.append(folder)
        except OSError:
            pass
    return ' '.join(got)
"""
_PROCESSES = """
import os, resource
def found():
    got = []
    try:
        own = open('/proc/self/cmdline').read()
        names = [name for name in os.listdir('/proc') if name.isdigit() and int(name) != os.getpid()]
    except OSError:
        return ''
    for name in names:
        pid, path = int(name), '/proc/' + name + '/'
        def see(what, attempt):
            try:
                if attempt(): got.append(name + ' ' + what)
            except OSError: pass
        see('is another program', lambda: open(path + 'cmdline').read() != own)
        for file in ('environ', 'maps'): see(file, lambda: open(path + file, 'rb').read(1))
        see('mem', lambda: open(path + 'mem', 'rb'))
        see('fd', lambda: os.listdir(path + 'fd'))
        see('limits', lambda: resource.prlimit(pid, resource.RLIMIT_CPU))
        see('affinity', lambda: os.sched_setaffinity(pid, {0}) is None)
        if pid != 1: see('kill', lambda: os.kill(pid, 0) is None)
    return ', '.join(got)
"""
_SIGNALS = """
import os
def found():
    got = []
    for pid in (os.getppid(), {pid}):
        try:
            os.kill(pid, 9)
            if pid != 1:
                got.append(str(pid))
        except OSError:
            pass
    return ' '.join(got)
"""
_KERNEL = """
import ctypes
def found():
    libc = ctypes.CDLL(None, use_errno=True)
    got = []
    if libc.unshare(0x10000000) == 0: got.append('user namespace')
    if libc.ptrace(16, {ppid}, 0, 0) == 0: got.append('ptrace')
    if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0: got.append('mount')
    if libc.setuid(0) == 0: got.append('uid 0')
    for name, numbers in (('io_uring', (425, 425)), ('keyring', (248, 217)), ('bpf', (321, 280)),
                          ('userfaultfd', (323, 282)), ('prlimit', (302, 261))):
        number = numbers[{arm}]
        arguments = (1, 7, 0, ctypes.create_string_buffer(16)) if name == 'prlimit' else (1, None, None, 0)
        if libc.syscall(number, *arguments) >= 0: got.append(name)
    return ', '.join(got)
"""
_LIMITS_RAISED = """
import resource
def found():
    got = []
    for name in ('RLIMIT_CPU', 'RLIMIT_AS', 'RLIMIT_FSIZE', 'RLIMIT_NOFILE', 'RLIMIT_CORE'):
        which = getattr(resource, name)
        soft, hard = resource.getrlimit(which)
        try:
            resource.setrlimit(which, (hard + 1, hard + 1))
            got.append(name)
        except (ValueError, OSError):
            pass
    return ' '.join(got)
"""
_FILE = """
import os
def found():
    try:
        with open('big', 'wb') as file:
            for _ in range(64):
                file.write(bytes(1 << 16))
                file.flush()
    except OSError:
        pass
    return '' if os.path.getsize('big') <= 1 << 20 else 'a file over its limit'
"""
_FORKS = """
import os, time
def found():
    count = 1
    try:
        while count < 100:
            if os.fork() == 0:
                time.sleep(30)
            count += 1
    except OSError:
        pass
    return '' if count <= 8 else '%d processes' % count
"""
_LEAVE = """
import os, signal, time
for folder in ('/tmp', '/dev/shm', os.getcwd()):
    try:
        os.makedirs(folder + '/{left}/deep')
        open(folder + '/{left}/deep/file', 'w').write('left')
    except OSError:
        pass
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork():
        os._exit(0)
    while True:
        time.sleep(1)
"""
_LEFT = """
import os
def found():
    got = []
    for folder in ('/tmp', '/dev/shm', os.getcwd()):
        try:
            got += [folder + '/' + name for name in os.listdir(folder) if name == '{left}']
        except OSError:
            pass
    return ' '.join(got)
"""


class Bait(NamedTuple):
    """A file that only this user may read, a port of this machine that listens, a name for what is left."""

    secret: str
    port: int
    left: str


@contextmanager
def _bait() -> Iterator[Bait]:
    """Lay the bait, and in the end delete what a probe left outside a jail that did not hold."""
    left = f"left-by-a-probe-{secrets.token_hex(8)}"
    try:
        with _laid(left) as bait:
            yield bait
    finally:
        for folder in ("/tmp", "/dev/shm"):
            shutil.rmtree(Path(folder) / left, ignore_errors=True)


@contextmanager
def _laid(left: str) -> Iterator[Bait]:
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        path = Path(folder) / "secret"
        path.write_text(secrets.token_hex(16), encoding="utf-8")
        path.chmod(0o600)
        yield Bait(str(path), listener.getsockname()[1], left)


def attempts(bait: Bait) -> list[Attempt]:
    """Return all attempts on this machine. The two that belong together (leave, look) stand in order."""
    pid, arm, left = os.getpid(), os.uname().machine == "aarch64", {"left": bait.left}
    here = {"home": str(Path.home()), "here": str(Path.cwd()), **left}
    honest = Run("import zoneinfo, asyncio\nprint('hello')\nanswer = [6 * 7]", "", ("answer",), _LIMITS)
    return [
        Attempt("an honest program gets its answer", honest, lambda ended: _value(ended) == [42], "rlimits"),
        _asks("read a secret file of this machine", _SECRET.format(path=bait.secret)),
        _asks("read another process's environment or memory", _ENVIRONMENT.format(pid=pid)),
        _asks("connect to this machine, or open a raw socket", _NETWORK.format(port=bait.port)),
        _asks("write outside its own folder", _WRITE.format(**here)),
        _asks("see processes outside, or touch those inside", _PROCESSES),
        _asks("kill the zygote or the service", _SIGNALS.format(pid=pid)),
        _asks(
            "make a namespace, trace, mount, use rare kernel interfaces", _KERNEL.format(ppid=1, arm=int(arm))
        ),
        _asks("raise its own limits", _LIMITS_RAISED, "rlimits"),
        _asks("write a file over its limit", _FILE, "rlimits"),
        _asks("start more processes than allowed", _FORKS, "process"),
        _ends("use more memory than allowed", "x = bytearray(1 << 30)", ("memory",)),
        _ends("use more CPU time than allowed", "while True: pass", ("timeout",), cpu_s=0.3),
        _ends("outlast its wall time asleep", "import time; time.sleep(60)", ("timeout",), wall_s=0.5),
        _ends("print more than allowed", "print('x' * (1 << 20))", ("output_limit",)),
        _ends("leave a process and files behind", _LEAVE.format(**left), ("answered",)),
        _asks("find what another run left", _LEFT.format(**left)),
    ]


async def probe(pool: Pool) -> list[Probe]:
    """Try everything against a warm pool, one after the other so that leftovers can be looked for."""
    with _bait() as bait:
        return [await _tried(pool, attempt) for attempt in await asyncio.to_thread(attempts, bait)]


async def _tried(pool: Pool, attempt: Attempt) -> Probe:
    try:
        ended = await pool.run(attempt.run)
    except NoAnswer as error:
        return Probe(name=attempt.name, held=False, detail=str(error)[:300])
    said = _value(ended) if attempt.run.calls else ended.how
    if said is None:
        said = f"{ended.how}: {ended.detail or ended.answers[0].payload.decode('utf-8', 'replace')}"
    return Probe(name=attempt.name, held=attempt.held(ended), detail=str(said)[:300])


def broken_promises(jail: str, probes: list[Probe]) -> list[Probe]:
    """Return the probes that did not hold although a jail of this name must stand them."""
    needed = {attempt.name: attempt.needed for attempt in attempts(Bait("", 0, ""))}
    strength = STRENGTH.index(jail)
    return [one for one in probes if not one.held and STRENGTH.index(needed[one.name]) <= strength]
