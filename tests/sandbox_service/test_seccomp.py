"""The seccomp program, run step by step for every system call there is."""

from __future__ import annotations

import errno
import struct

import pytest

from sandbox_service.jails import seccomp

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}


def outcome(program: bytes, machine: str, number: int, *arguments: int) -> int:
    """Return the error a system call gets, 0 when it is allowed: a classic BPF machine, as in bpf(4)."""
    data = struct.pack("=IIQ6Q", number, ARCHITECTURE[machine], 0, *(*arguments, 0, 0, 0, 0, 0, 0)[:6])
    steps = list(struct.iter_unpack("=HBBI", program))
    at = accumulator = 0
    while True:
        code, then, otherwise, value = steps[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x06:
                assert value == ALLOW or value & 0xFFFF0000 == ERRNO
                return 0 if value == ALLOW else value & 0xFFFF
            case 0x15 | 0x35 | 0x45:
                true = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: accumulator & value}[
                    code
                ]
                at += then if true else otherwise
            case _:
                raise AssertionError(f"unknown step {code:#x}")


@pytest.mark.parametrize("machine", ARCHITECTURE)
@pytest.mark.parametrize("signals", [True, False])
def test_every_system_call_gets_what_the_tables_say(machine: str, signals: bool) -> None:
    column = list(ARCHITECTURE).index(machine)
    program = seccomp.assemble(sockets=True, signals=signals, machine=machine)
    expected = {numbers[column]: errno.ENOSYS for numbers in seccomp._NOT_THERE.values()}
    expected |= {numbers[column]: errno.EPERM for numbers in seccomp._REFUSED.values()}
    if not signals:
        expected |= {numbers[column]: errno.EPERM for numbers in seccomp._SIGNALS.values()}
    socket = {"x86_64": 41, "aarch64": 198}[machine]
    for number in range(600):
        if number != socket:
            assert outcome(program, machine, number) == expected.get(number, 0), number
    assert outcome(program, machine, 0x40000000 + 41) == errno.ENOSYS


def test_arguments_decide_for_four_calls() -> None:
    open_, closed = (seccomp.assemble(sockets=one, signals=True, machine="x86_64") for one in (True, False))
    clone, prlimit, ioctl, socket = 56, 302, 16, 41
    assert outcome(open_, "x86_64", clone, 0x1200011) == 0
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert outcome(open_, "x86_64", clone, flag | 17) == errno.EPERM
    assert outcome(open_, "x86_64", prlimit, 0) == 0
    assert outcome(open_, "x86_64", prlimit, 1) == errno.EPERM
    assert outcome(open_, "x86_64", ioctl, 3, 0x5412) == errno.EPERM
    assert outcome(open_, "x86_64", ioctl, 3, 0x541C) == errno.EPERM
    assert outcome(open_, "x86_64", ioctl, 3, 0x5401) == 0
    for kind, error in ((0o010000, 0), (0o100000, 0), (0o140000, 0), (0o020000, 1), (0o060000, 1)):
        assert outcome(open_, "x86_64", 133, 0, kind | 0o644) == error
        assert outcome(open_, "x86_64", 259, 0, 0, kind | 0o644) == error
    for family in range(50):
        assert outcome(open_, "x86_64", socket, family) == (0 if family in (1, 2, 10) else errno.EAFNOSUPPORT)
        assert outcome(closed, "x86_64", socket, family) == errno.EPERM


def test_another_architecture_is_refused() -> None:
    program = seccomp.assemble(sockets=True, signals=True, machine="x86_64")
    assert outcome(program, "aarch64", 0) == errno.ENOSYS


def test_no_path_is_long() -> None:
    program = seccomp.assemble(sockets=True, signals=False, machine="x86_64")
    assert len(program) // 8 < 4096, "the kernel's limit"
