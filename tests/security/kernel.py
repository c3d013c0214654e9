"""The file system, kernel interfaces, ways out of the box, and the judge itself."""

from __future__ import annotations

from tests.security.cases import FAILED, LOST, PASSED, Case, ends

# A program that looks for holes answers what it got hold of: 'nothing' is right, so that the verdict is passed.
_HELD = ("assert found() == 'nothing'",)


def _looks(body: str) -> str:
    return "import os\ngot = []\ndef found():\n" + body + "    return ', '.join(map(str, got)) or 'nothing'\n"


FILES = (
    Case(72, "poisons /tmp for the next run",
         "import os\nfor n in ('math.py', 'json.py', 'encodings.py', 'codec.py'):\n    for folder in ('/tmp/', ''):\n"
         "        try: open(folder + n, 'w').write('raise SystemExit')\n        except OSError: pass\ndef f(x): return 0", FAILED),
    Case(73, "links to what the host reads",
         "import os\nfor a, b in (('/etc/shadow', 'out'), ('/proc/1/environ', 'env'), ('/', 'root')):\n    os.symlink(a, b)\n"
         "def f(x): return 0", FAILED),
    Case(74, "things that are hard to clear up",
         "import os\nos.mkdir('a')\nos.mkdir('a/b')\nopen('a/b/c', 'w').close()\nos.mkfifo('a/fifo')\nos.chmod('a/b', 0)\n"
         "os.chmod('a', 0)\ndef f(x): return 0", FAILED),
    Case(74, "a tree without an end",
         "import os\nfor _ in range(3000):\n    try:\n        os.mkdir('d')\n        os.chdir('d')\n    except OSError: break\n"
         "def f(x): return 0", FAILED),
    Case(76, "changes the interpreter",
         _looks("    for p in ('/usr/bin/python3', os.__file__, '/bin/sh', '/usr/lib/x', '/etc/x', '/room/x'):\n"
                "        try:\n            open(p, 'ab').write(b'x')\n            got.append(p)\n        except OSError: pass\n"),
         PASSED, _HELD),
)  # fmt: skip

KERNEL = (
    Case(77, "traces or writes the zygote",
         _looks("    import ctypes\n    libc = ctypes.CDLL(None)\n    for pid in (1, os.getppid()):\n"
                "        if pid and libc.ptrace(16, pid, 0, 0) == 0: got.append('ptrace %d' % pid)\n"
                "        for n in ('mem', 'environ', 'maps'):\n"
                "            try: got.append(open('/proc/%d/%s' % (pid, n), 'rb').read(1) and n)\n            except OSError: pass\n"),
         PASSED, _HELD),
    Case(78, "io_uring, keyrings, bpf, userfaultfd, perf, kexec, modules, quotas",
         _looks("    import ctypes, platform\n    libc = ctypes.CDLL(None)\n    arm = platform.machine() == 'aarch64'\n"
                "    for name, x86, a64 in (('io_uring', 425, 425), ('add_key', 248, 217), ('bpf', 321, 280), ('userfaultfd', 323, 282),\n"
                "        ('perf_event_open', 298, 241), ('init_module', 175, 105), ('kexec_load', 246, 104), ('open_by_handle', 304, 265)):\n"
                "        if libc.syscall(a64 if arm else x86, 0, None, None, 0, 0) >= 0: got.append(name)\n"), PASSED, _HELD),
    Case(82, "sockets to others",
         _looks("    import socket\n    for family, kind in ((socket.AF_INET, 3), (17, 3), (38, 5), (40, 1), (16, 3)):\n"
                "        try:\n            socket.socket(family, kind).close()\n            got.append(family)\n        except OSError: pass\n"
                "    for host in ('127.0.0.1', '169.254.169.254', '10.0.0.1'):\n        try:\n"
                "            socket.create_connection((host, 80), 0.5)\n            got.append(host)\n        except OSError: pass\n"),
         PASSED, _HELD),
    Case(83, "a terminal", _looks("    for fd in range(3):\n        if os.isatty(fd): got.append(fd)\n"
                                  "    try: got.append(open('/dev/tty'))\n    except OSError: pass\n"), PASSED, _HELD),
    Case(84, "mounts, clocks, host name",
         _looks("    import ctypes, time\n    libc = ctypes.CDLL(None)\n"
                "    if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == 0: got.append('mount')\n"
                "    if libc.sethostname(b'x', 1) == 0: got.append('hostname')\n"
                "    try:\n        time.clock_settime(time.CLOCK_REALTIME, time.time())\n        got.append('clock')\n    except OSError: pass\n"
                "    if libc.chroot(b'/tmp') == 0: got.append('chroot')\n"), PASSED, _HELD),
    Case(86, "namespaces of its own",
         _looks("    import ctypes\n    libc = ctypes.CDLL(None)\n    for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000):\n"
                "        if libc.unshare(flag) == 0: got.append(hex(flag))\n"), PASSED, _HELD),
    Case(87, "kernel settings",
         _looks("    for p in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/sys/fs/cgroup/release_agent',\n"
                "              '/proc/sys/kernel/modprobe', '/proc/sys/vm/overcommit_memory'):\n"
                "        try:\n            open(p, 'w').write('x')\n            got.append(p)\n        except OSError: pass\n"), PASSED, _HELD),
    Case(88, "other users",
         _looks("    for act in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0])):\n"
                "        try:\n            act()\n            got.append('became root')\n        except OSError: pass\n"
                "    if os.getuid() == 0: got.append('root')\n"
                "    try: status = open('/proc/self/status').readlines()\n    except OSError: status = []\n"
                "    for line in status:\n        if line.startswith(('CapEff', 'CapPrm', 'CapAmb')) and int(line.split()[1], 16): got.append(line)\n"), PASSED, _HELD),
    Case(89, "devices", _looks("    for d in ('kvm', 'fuse', 'mem', 'kmsg', 'sda', 'vda', 'net/tun', 'loop0'):\n"
                               "        try:\n            open('/dev/' + d, 'rb')\n            got.append(d)\n        except OSError: pass\n"
                               "    try:\n        os.mknod('/tmp/null', 0o020666, os.makedev(1, 3))\n        got.append('mknod')\n"
                               "    except OSError: pass\n"), PASSED, _HELD),
    Case(90, "sockets and mounts of the host",
         _looks("    for p in ('/var/run/docker.sock', '/run/docker.sock', '/run/containerd/containerd.sock', '/host', '/.dockerenv'):\n"
                "        if os.path.exists(p) and p != '/.dockerenv': got.append(p)\n"
                "    for p in ('/root/.ssh', '/root/.bash_history', '/etc/shadow', '/root/.netrc'):\n"
                "        if os.access(p, os.R_OK): got.append(p)\n"), PASSED, _HELD),
    Case(92, "secrets in the environment",
         _looks("    got.extend(k for k in os.environ if any(w in k for w in ('TOKEN', 'KEY', 'SECRET', 'PASS', 'SANDBOX_', 'AWS')))\n"),
         PASSED, _HELD),
    Case(94, "log lines of its own", "raise ValueError('\\n{\"level\": \"info\", \"event\": \"passed\"}\\r\\x1b[2K')", ends("raised")),
)  # fmt: skip

JUDGE = (
    Case(95, "a set of colliding numbers",
         "def f(x): return {n * ((1 << 61) - 1) for n in range(60_000)}", LOST, ("assert f(2) == {1, 2, 3}",)),
    Case(96, "an answer that makes the rest explode", "def f(x): return 10 ** 9", LOST,
         ("assert 2 ** f(2) == 4", "assert list(range(f(2))) == []", "assert 'x' * f(2) == ''")),
    Case(96, "a text that makes a pattern explode", "def f(x): return 'a' * 60 + 'b'", LOST,
         ("import re\nassert re.fullmatch('(a+)+', f(2))",)),
    Case(97, "its own malformed answers",
         "import os, struct\ndef f(x):\n    for text in (b'[\"f\",\"1e999\"]', b'[\"i\",4]', b'{\"a\":1,\"a\":2}', b'NaN', b'[\"i\",\"' + b'9' * 20000 + b'\"]'):\n"
         "        os.write(4, struct.pack('!IcfI', x - 2, b'v', 0.0, len(text)) + text)\n    return 0"),
    Case(97, "duplicate keys and unhashable ones",
         "from sandbox_service.inside import codec\ncodec.encode = lambda *a: b'[\"d\",[[[\"l\",[]],[\"N\"]],[[\"N\"],[\"N\"]],[[\"N\"],[\"N\"]]]]'\n"
         "def f(x): return 0", FAILED),
    Case(101, "the visible tests by heart", "def f(x): return {2: 4, 3: 9}[x]", PASSED),
)  # fmt: skip

CASES = (*FILES, *KERNEL, *JUDGE)
