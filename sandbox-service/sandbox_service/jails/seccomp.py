"""A seccomp-BPF program, assembled here: system calls a candidate has no business with are refused.

A deny list that answers EPERM or ENOSYS and never kills: an allow list that kills turns a rare system call
of the C library into a random verdict. It narrows the kernel's surface; it does not give a kernel of its
own, and whatever it does not name stays allowed.
"""

from __future__ import annotations

import errno
import platform
import struct

_ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32 = 0x40000000

_LOAD, _JEQ, _JGE, _JSET, _RET = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16
_SIZE = 8  # bytes of a struct sock_filter

_NAMESPACES = 0x7E020000  # every CLONE_NEW* flag that clone() takes
_TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
_UNIX, _INET, _INET6 = 1, 2, 10

# name: (x86_64, aarch64); None where the architecture does not have it
_NOT_THERE: dict[str, tuple[int | None, int | None]] = {
    "clone3": (435, 435),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "mq_open": (240, 180),
    "mq_unlink": (241, 181),
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "msgget": (68, 186),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semctl": (66, 191),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "pidfd_getfd": (438, 438),
    "pidfd_send_signal": (424, 424),
    "process_madvise": (440, 440),
    "process_mrelease": (448, 448),
    "seccomp": (317, 277),
    "fanotify_init": (300, 262),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
}
_REFUSED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "vhangup": (153, 58),
    "personality": (135, 92),
    "lookup_dcookie": (212, 18),
    "nfsservctl": (180, 42),
    "setpriority": (141, 140),
    "ioprio_set": (251, 30),
    "sched_setscheduler": (144, 119),
    "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
    "sched_setaffinity": (203, 122),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    "mbind": (237, 235),
    "set_mempolicy": (238, 237),
}
_SOCKET = (41, 198)
_CLONE = (56, 220)
_IOCTL = (16, 29)
_PRLIMIT = (302, 261)
_MKNOD = (133, None)
_MKNODAT = (259, 33)
_DEVICE = 0o020000  # set in a mode for character and block devices alone; gVisor asks for no capability
_SIGNALS: dict[str, tuple[int | None, int | None]] = {
    "kill": (62, 129),
    "tkill": (200, 130),
    "tgkill": (234, 131),
}


def _step(code: int, value: int, then: int = 0, otherwise: int = 0) -> bytes:
    return struct.pack("=HBBI", code, then, otherwise, value)


def _refuse(error: int) -> bytes:
    return _step(_RET, _ERRNO | error)


def supported() -> bool:
    """Whether there is a table for this processor."""
    return platform.machine() in _ARCHITECTURES


def assemble(*, sockets: bool, signals: bool, machine: str | None = None) -> bytes:
    """Return the program as an array of struct sock_filter.

    sockets   allow Unix and internet sockets: right only where the network namespace is empty
    signals   allow kill(): wrong where the candidate shares its uid with anything outside its jail
    raises    KeyError for a processor without a table
    """
    architecture, column = _ARCHITECTURES[machine or platform.machine()]
    steps = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JEQ, architecture, 1, 0),
        _refuse(errno.ENOSYS),
        _step(_LOAD, _NUMBER),
        _step(_JGE, _X32, 0, 1),
        _refuse(errno.ENOSYS),
    ]
    refused = dict(_REFUSED) if signals else {**_REFUSED, **_SIGNALS}
    cases: dict[int, bytes] = {}
    for table, error in ((_NOT_THERE, errno.ENOSYS), (refused, errno.EPERM)):
        for numbers in table.values():
            number = numbers[column]
            if number is not None:
                cases[number] = _refuse(error)
    cases[_CLONE[column]] = _look(0, [_step(_JSET, _NAMESPACES, 0, 1), _refuse(errno.EPERM)])
    cases[_PRLIMIT[column]] = _look(0, [_step(_JEQ, 0, 1, 0), _refuse(errno.EPERM)])
    for numbers, argument in ((_MKNOD, 1), (_MKNODAT, 2)):
        number = numbers[column]
        if number is not None:
            cases[number] = _look(argument, [_step(_JSET, _DEVICE, 0, 1), _refuse(errno.EPERM)])
    injection = [
        step for call in _TERMINAL_INJECTION for step in (_step(_JEQ, call, 0, 1), _refuse(errno.EPERM))
    ]
    cases[_IOCTL[column]] = _look(1, injection)
    families = [_UNIX, _INET, _INET6] if sockets else []
    allowed = [_step(_JEQ, family, len(families) - place, 0) for place, family in enumerate(families)]
    cases[_SOCKET[column]] = _look(0, [*allowed, _refuse(errno.EAFNOSUPPORT if sockets else errno.EPERM)])
    return b"".join(steps) + _search(sorted(cases.items()))


def _look(argument: int, checks: list[bytes]) -> bytes:
    """Apply `checks` to one argument (its low half), and allow what they let through."""
    return b"".join([_step(_LOAD, _ARGUMENTS + 8 * argument), *checks, _step(_RET, _ALLOW)])


def _search(cases: list[tuple[int, bytes]]) -> bytes:
    """Find the number among sorted cases by halving. gVisor runs the program for every number there is
    at each fork: one comparison after the other, that took a twentieth of its time."""
    if len(cases) <= 2:
        steps = [_step(_JEQ, number, 0, len(block) // _SIZE) + block for number, block in cases]
        return b"".join([*steps, _step(_RET, _ALLOW)])
    middle = len(cases) // 2
    below, above = _search(cases[:middle]), _search(cases[middle:])
    return _step(_JGE, cases[middle][0], len(below) // _SIZE, 0) + below + above
