"""Time, processes, space."""

from __future__ import annotations

from tests.security.cases import FAILED, LIMITS, LOST, PASSED, TIMEOUT, Case, ends

_QUICK = {**LIMITS, "wall_s": 1.5}

TIME = (
    Case(45, "a loop", "def f(x):\n    while True: pass", TIMEOUT),
    Case(45, "asleep", "import time\ndef f(x): time.sleep(60)", TIMEOUT, limits=_QUICK),
    Case(46, "swallows every exception in a loop",
         "def f(x):\n    while True:\n        try:\n            while True: pass\n        except BaseException: pass", TIMEOUT),
    Case(47, "ignores every signal",
         "import signal\nfor n in range(1, 65):\n    try: signal.signal(n, signal.SIG_IGN)\n"
         "    except (OSError, ValueError): pass\nsignal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\n"
         "signal.setitimer(signal.ITIMER_REAL, 0)\ndef f(x):\n    while True: pass", TIMEOUT),
    Case(48, "a long computation in C", "def f(x): return 10 ** 10 ** 8 % 7"),
    Case(48, "a regular expression without an end", "import re\ndef f(x): return re.match('(a+)+$', 'a' * 40 + 'b')", TIMEOUT),
    Case(49, "stops itself", "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGSTOP)", TIMEOUT, limits=_QUICK),
    Case(49, "stops its group", "import os, signal\ndef f(x): os.kill(0, signal.SIGSTOP)", TIMEOUT, limits=_QUICK),
    Case(50, "a chain of forks, each with a budget of its own",
         "import os, time\ndef f(x):\n    while True:\n        if os.fork():\n            os.wait()\n            os._exit(0)\n"
         "        end = time.process_time() + 0.3\n        while time.process_time() < end: pass",
         ends("timeout", "raised", "failed")),
    Case(51, "raises its limits",
         "import resource\nfor w in (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NPROC):\n"
         "    for most in (resource.RLIM_INFINITY, 1 << 40):\n"
         "        try: resource.setrlimit(w, (most, most))\n        except (ValueError, OSError): pass\n"
         "def f(x):\n    while True: pass", TIMEOUT),
    Case(52, "patches the clock", "import time\ntime.time = time.monotonic = time.perf_counter = lambda: 0.0\n"
         "def f(x):\n    while True: pass", TIMEOUT),
    Case(53, "works on in a thread after its answer",
         "import threading\ndef work():\n    while True: pass\ndef f(x):\n    threading.Thread(target=work).start()\n    return x * x",
         ends("passed", "timeout", "forbidden")),
)  # fmt: skip

PROCESSES = (
    Case(55, "a fork bomb", "import os\ndef f(x):\n    while True:\n        try: os.fork()\n        except OSError: pass",
         ends("timeout", "forbidden", "failed", "raised")),
    Case(56, "a daemon",
         "import os, time\ndef f(x):\n    if os.fork() == 0:\n        os.setsid()\n        if os.fork() == 0:\n"
         "            while True:\n                try: open('/tmp/alive', 'a').close()\n                except OSError: pass\n"
         "                time.sleep(0.01)\n        os._exit(0)\n    return x * x", PASSED),
    Case(57, "threads that outlive it",
         "import threading, time\nfor _ in range(3): threading.Thread(target=time.sleep, args=(60,)).start()\n"
         "def f(x): return x * x", PASSED),
    Case(58, "a child that holds the pipes open",
         "import os, time\ndef f(x):\n    if x == 3 and os.fork() == 0:\n        time.sleep(60)\n    return x * x", PASSED),
    Case(58, "a child that answers in its place",
         "import os\ndef f(x):\n    if os.fork() == 0: return 5\n    os.wait()\n    return 0"),
    Case(59, "kills all it may",
         "import os\nfor pid in (1, -1, os.getppid(), 0):\n    if pid != 0:\n        try: os.kill(pid, 9)\n"
         "        except OSError: pass\ndef f(x): return x * x", ends("passed", "failed")),
    Case(60, "a subreaper with a clone of its parent's",
         "import ctypes, os\nlibc = ctypes.CDLL(None)\nlibc.prctl(36, 1, 0, 0, 0)\nlibc.prctl(1, 0, 0, 0, 0)\n"
         "pid = libc.syscall(56, 0x8000 | 17, 0, 0, 0, 0)\nif pid == 0:\n    while True: pass\ndef f(x): return x * x",
         ends("passed", *LOST)),
    Case(61, "zombies", "import os\nfor _ in range(100):\n    try:\n        if os.fork() == 0: os._exit(0)\n"
         "    except OSError: break\ndef f(x): return x * x", PASSED),
)  # fmt: skip

SPACE = (
    Case(62, "a memory bomb", "def f(x):\n    y = []\n    while True: y.append(bytearray(1 << 20))", ends("memory")),
    Case(63, "memory in many processes",
         "import os, time\ndef f(x):\n    for _ in range(6):\n        if os.fork() == 0:\n            y = bytearray(100 << 20)\n"
         "            for i in range(0, len(y), 4096): y[i] = 1\n            time.sleep(30)\n    time.sleep(30)",
         ends("memory", "timeout", "raised")),
    Case(64, "memory in /dev/shm and /tmp",
         "def f(x):\n    for name in ('/dev/shm/a', '/tmp/a'):\n        for n in range(200):\n"
         "            try: open(name + str(n), 'wb').write(bytes(1 << 20))\n            except OSError: pass\n    return 0"),
    Case(64, "memory in a memfd", "import os\ndef f(x):\n    fd = os.memfd_create('x')\n    for _ in range(400):\n"
         "        os.write(fd, bytes(1 << 20))\n    return 0"),
    Case(65, "a zip bomb", "import zlib\ndef f(x):\n    data = zlib.compress(bytes(50 << 20))\n"
         "    return [zlib.decompress(data) for _ in range(99)]", ends("memory", "raised", "timeout")),
    Case(65, "a JSON bomb", "import json\ndef f(x): return json.loads('[' * 10 ** 6)", ends("raised", "failed", "memory")),
    Case(66, "recursion in C", "import sys\nsys.setrecursionlimit(10 ** 9)\nclass A: pass\nA.__call__ = A()\n"
         "def f(x): return A()()", LOST),
    Case(66, "a source that is nested too deep", "x = " + "(" * 9000 + ")" * 9000 + "\ndef f(x): return 0"),
    Case(67, "an answer that is too large", "def f(x): return 'x' * (8 << 20)", FAILED),
    Case(67, "an answer of a million digits", "def f(x): return 1 << 4_000_000", FAILED),
    Case(67, "an answer that is nested too deep", "def f(x):\n    y = []\n    for _ in range(900): y = [y]\n    return y", FAILED),
    Case(67, "an answer that holds itself", "def f(x):\n    y = []\n    y.append(y)\n    return y", FAILED),
    Case(67, "an answer without an end", "def f(x):\n    while True: yield 1", FAILED, ("assert list(f(2)) == [1]",)),
    Case(68, "one endless line", "import sys\ndef f(x):\n    while True: sys.stderr.write('x' * 4096)", ends("output_limit")),
    Case(69, "fills the disk", "def f(x):\n    for n in range(10_000):\n        try: open('/tmp/%d' % n, 'wb').write(bytes(1 << 19))\n"
         "        except OSError: pass\n    return 0"),
    Case(69, "a sparse file", "def f(x):\n    with open('/tmp/s', 'wb') as file:\n        file.seek(1 << 40)\n        file.write(b'x')\n    return 0"),
    Case(70, "no descriptor left", "import os\ndef f(x):\n    while True: os.open('/dev/null', 0)"),
    Case(71, "a core dump", "import os, signal\ndef f(x): os.kill(os.getpid(), signal.SIGQUIT)"),
)  # fmt: skip

CASES = (*TIME, *PROCESSES, *SPACE)
