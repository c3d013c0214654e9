"""The bytes between the service and a zygote, and between a zygote and its one-shot child. Stdlib only.

    service -> zygote   one setup frame (length, JSON); then per run a HEAD, its LIMITS and its body; for a
                        run that answers a test, more HEADs with what the test asks, an empty one at its end
    zygote  -> service  REPLY headers, each with the run's nonce; the payload is never parsed by the zygote
    child   -> zygote   ANSWER headers with their payloads: written by the candidate's process, so worth
                        no more than the candidate's word

The nonce keeps one run's frames from answering for another. It keeps no secret of the verdict: truth needs
none, because no expected value is ever in a jail.
"""

from __future__ import annotations

import os
import struct

SETUP = struct.Struct("!I")

# kind, nonce, length of what follows (after the limits, for a request)
HEAD = struct.Struct("!c16sI")
REQUEST, MORE = b"Q", b"M"
# cpu_s, wall_s, memory_bytes, output_bytes, file_bytes, processes, whether it answers a test after its calls
LIMITS = struct.Struct("!ddQQQI?")
BODY_MAX = 64 << 20

# kind, nonce, payload length
REPLY = struct.Struct("!c16sI")
CHUNK = 1 << 16

READY, ANSWERS, STDOUT, STDERR, ENDED = b"R", b"A", b"O", b"E", b"Z"

# reason, wait status, cpu_ms, wall_ms, waited_ms (for a processor; -1: not known), peak_kb, clean
END = struct.Struct("!cidddQ?")
EXIT, CPU, WALL, OUTPUT, MEMORY = b"x", b"c", b"w", b"o", b"m"

# index, status, seconds since the last one, payload length; LOAD stands for all before the first call
ANSWER = struct.Struct("!IcfI")
LOAD = 0xFFFFFFFF
VALUE, RAISED, EXITED, NO_MEMORY, NO_PROCESS = b"v", b"r", b"e", b"m", b"p"
CALLED = b"c"  # in a run that answers a test: the program calls a function of the test's
ANSWER_MAX = 2 << 20
RAISED_MAX = 8192
ANSWERS_MAX = 16 << 20


def read_exactly(fd: int, size: int) -> bytes:
    """Read `size` bytes from a blocking descriptor; raise EOFError when it ends before."""
    parts = []
    while size:
        part = os.read(fd, min(size, CHUNK))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def write_whole(fd: int, data: bytes) -> None:
    """Write `data` to a blocking descriptor."""
    written = os.write(fd, data)
    while written < len(data):
        written += os.write(fd, data[written:])


def write_all(fd: int, *parts: bytes | memoryview) -> None:
    """Write all of `parts` to a blocking descriptor, in one call where the kernel takes them whole."""
    views = [memoryview(part) for part in parts if len(part)]
    while views:
        written = os.writev(fd, views)
        while views and written >= len(views[0]):
            written -= len(views[0])
            views.pop(0)
        if views:
            views[0] = views[0][written:]
