"""What a zygote takes away from itself, and so from everything it forks. Stdlib only, through ctypes.

Each function raises OSError when the kernel refuses; nothing here pretends. None of it replaces a kernel
boundary of its own: a bug in a system call that stays allowed is a bug in this machine's kernel.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

LINUX = sys.platform == "linux"

_PDEATHSIG, _DUMPABLE, _BOUNDING_DROP, _SECCOMP, _SUBREAPER, _NO_NEW_PRIVS = 1, 4, 24, 22, 36, 38
_AMBIENT, _AMBIENT_CLEAR_ALL = 47, 4
_SECCOMP_FILTER = 2
_CAPABILITY_V3 = 0x20080522
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446

CAP_KILL, CAP_SETGID, CAP_SETUID = 5, 6, 7

_READ = 1 | 4 | 8  # execute, read a file, read a directory
_FS_BITS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}  # Landlock ABI -> how many file-system rights it knows
_DEVICE_RIGHTS = 2 | 4  # read and write a file

_libc = ctypes.CDLL(None, use_errno=True) if LINUX else None


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result


def _prctl(option: int, *arguments: int) -> int:
    assert _libc is not None
    values = [ctypes.c_ulong(argument) for argument in (*arguments, 0, 0, 0, 0)[:4]]
    return int(_libc.prctl(option, *values))


def not_dumpable() -> None:
    """Deny ptrace, /proc/PID/{mem,environ,fd,maps} to processes of the same uid."""
    _check(_prctl(_DUMPABLE, 0), "prctl(PR_SET_DUMPABLE)")


def no_new_privileges() -> None:
    _check(_prctl(_NO_NEW_PRIVS, 1), "prctl(PR_SET_NO_NEW_PRIVS)")


def adopt_orphans() -> None:
    """Make orphaned descendants children of this process, so that it can find and reap them."""
    _check(_prctl(_SUBREAPER, 1), "prctl(PR_SET_CHILD_SUBREAPER)")


def die_with_parent(parent: int, signal: int = 9) -> None:
    """Be killed when the parent dies; end now if it died before this call."""
    _check(_prctl(_PDEATHSIG, signal), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os._exit(1)


def keep_capabilities(kept: frozenset[int]) -> None:
    """Drop every capability but `kept` from all sets, the bounding set included."""
    assert _libc is not None
    for capability in range(64):
        if capability not in kept and _prctl(_BOUNDING_DROP, capability) < 0 and ctypes.get_errno() == 22:
            break
    _prctl(_AMBIENT, _AMBIENT_CLEAR_ALL)
    mask = sum(1 << capability for capability in kept)
    header = struct.pack("=Ii", _CAPABILITY_V3, 0)
    data = struct.pack("=6I", mask, mask, 0, 0, 0, 0)
    _check(_libc.capset(header, data), "capset")


def filter_system_calls(program: bytes) -> None:
    """Install a seccomp program (an array of sock_filter) for this process and all it forks."""
    buffer = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
    block = ctypes.create_string_buffer(header, len(header))
    _check(_prctl(_SECCOMP, _SECCOMP_FILTER, ctypes.addressof(block)), "prctl(PR_SET_SECCOMP)")


def landlock_abi() -> int:
    """Return the kernel's Landlock ABI version, 0 where it has none or it is switched off."""
    if _libc is None:
        return 0
    _libc.syscall.restype = ctypes.c_long
    return max(0, int(_libc.syscall(_LANDLOCK_CREATE, None, ctypes.c_size_t(0), ctypes.c_uint32(1))))


def make_ruleset(readable: list[str], writable: list[str], devices: list[str]) -> int:
    """Make a Landlock ruleset: only these paths (and what is below them), no TCP, and no signals or abstract
    sockets to processes outside. Return its descriptor, for `enter_ruleset` after a fork.

    readable   read and execute; a path that does not exist is passed over
    writable   everything but device nodes
    devices    single files to read and write
    """
    assert _libc is not None
    abi = landlock_abi()
    if not abi:
        raise OSError(38, "Landlock is not in this kernel or is switched off")
    every = (1 << _FS_BITS[min(abi, 5)]) - 1
    attributes = struct.pack("=QQQ", every, 3 if abi >= 4 else 0, 3 if abi >= 6 else 0)
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = _check(_libc.syscall(_LANDLOCK_CREATE, attributes[:size], ctypes.c_size_t(size), 0), "landlock")
    make_devices = 1 << 6 | 1 << 11
    rules = [(path, _READ) for path in readable]
    rules += [(path, every & ~make_devices) for path in writable]
    rules += [(path, _DEVICE_RIGHTS) for path in devices]
    for path, rights in rules:
        _allow(ruleset, path, rights)
    return ruleset


def enter_ruleset(ruleset: int) -> None:
    """Restrict this process, and all it forks, by a Landlock ruleset; there is no way back."""
    assert _libc is not None
    _check(_libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0), "landlock_restrict_self")


def _allow(ruleset: int, path: str, rights: int) -> None:
    assert _libc is not None
    try:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    if not os.path.isdir(path):  # noqa: PTH112 - pathlib is not worth its memory in a zygote
        rights &= 1 | 2 | 4 | 1 << 14
    rule = struct.pack("=Qi", rights, beneath)
    _check(_libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0), f"landlock rule for {path}")
    os.close(beneath)
