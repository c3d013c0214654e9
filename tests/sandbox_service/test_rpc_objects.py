"""The program's objects in a test that the judge runs: they are what they are there, and forge nothing."""

from __future__ import annotations

from typing import Any

import pytest
from tests.sandbox_service.test_rpc_shared import ask, in_one_jail

from sandbox_service.rpc_plan import NotRemote, remote

__all__ = ["ask"]

STACK = (
    "class Stack(list):\n    def push(self, x): self.append(x); return self\n"
    "    def top(self): return self[-1]"
)
POINT = (
    "from collections import namedtuple\nPoint = namedtuple('Point', 'x y')\ndef f(a, b): return Point(a, b)"
)
COLOURS = (
    "from enum import Enum, IntEnum\nclass Colour(str, Enum):\n    RED = 'red'\n    BLUE = 'blue'\n"
    "class N(IntEnum):\n    A = 1\n    B = 2"
)
COUNTS = "from collections import defaultdict\ndef f(): d = defaultdict(int); d['a'] += 1; return d"
LRU = (
    "from collections import OrderedDict\nclass LRU(OrderedDict):\n    def get(self, k):\n"
    "        self.move_to_end(k)\n        return self[k]\n    def put(self, k, v):\n        self[k] = v\n"
    "        if len(self) > 2: self.popitem(last=False)"
)
TABLE = (
    "class Table(dict):\n    def __getattr__(self, k):\n        try: return self[k]\n"
    "        except KeyError: raise AttributeError(k)"
)
VECTOR = (
    "class V(tuple):\n    def __add__(self, o): return V(a + b for a, b in zip(self, o))\n"
    "class W:\n    def __init__(self, x): self.x = x\n    def __iadd__(self, o): self.x += o.x; return self"
)
WORD = (
    "class Word(str):\n    def __eq__(self, o): return self.lower() == o.lower()\n"
    "    def __hash__(self): return hash(self.lower())"
)
MANAGER = (
    "class M:\n    def __init__(self): self.log = []\n    def __enter__(self): self.log.append('in'); "
    "return self\n"
    "    def __exit__(self, k, e, t):\n        self.log.append(k and k.__name__)\n"
    "        return k is not None and issubclass(k, {suppressed})\ndef fail(): raise ValueError('x')"
)
CLASSES = (
    "class A:\n    'of A'\n    def __init__(self): self.n = 1\n    def __format__(self, spec): return "
    "'A' + spec\n"
    "    def __reversed__(self): return iter([3, 2])\n    def __len__(self): return 0\n"
    "    def __getitem__(self, i): return i\nclass B(A): pass\ndef f(): yield 1\n"
    "class L(Exception): pass\nclass E(L): pass\ndef g(): raise E(1)\n"
    "def caught(h):\n    try: h()\n    except L as e: return e.args\ndef kind(x): return type(x)"
)
FUNCTIONS = (
    "import functools, json, decimal\nfrom dataclasses import dataclass\n@dataclass(frozen=True)\nclass P:\n"
    "    x: int\nclass Bus:\n    def __init__(self): self.on = []\n    def off(self, f): self.on.remove(f)\n"
    "    def go(self, x): return [f(x) for f in self.on]\n"
    "def memo(f):\n    seen = {}\n    @functools.wraps(f)\n"
    "    def kept(x): return seen[x] if x in seen else seen.setdefault(x, f(x))\n    return kept\n"
    "class It:\n    n = 3\n    def __iter__(self): return self\n    def __next__(self):\n"
    "        if not self.n: raise StopIteration\n        self.n -= 1\n        return self.n\n"
    "def load(s): return json.loads(s)\ndef divide(): return decimal.Decimal(1) / 0"
)
# Each holds in one process with the program.
HOLDING = [
    (STACK, "s = Stack()\nassert s.push(3) is s and s == [3] and len(s) == 1 and s.top() == s[0] == 3\n"
    "s.append(4)\n"
            "assert s.pop() == 4 and isinstance(s, list) and isinstance(s, Stack) and type(s) is Stack"),
    (POINT, "p = f(1, 2)\nassert p.x == 1 and p == (1, 2) and p[1] == 2 and p._replace(x=5) == Point(5, 2)\n"
            "x, y = p\nassert (x, y) == p and p in {(1, 2)} and p._asdict() == {'x': 1, 'y': 2}\n"
            "assert isinstance(p, tuple) and isinstance(p, Point) and repr(p) == 'Point(x=1, y=2)'"),
    (POINT, "for _ in [1]: assert sorted([f(2, 1), f(1, 2)]) == [(1, 2), (2, 1)] and f(1, 2) != (1, 3)"),
    (COLOURS, "c = Colour('red')\nassert c == 'red' and c is Colour.RED and c.name == 'RED' and "
    "c.upper() == 'RED'\n"
              "assert {c: 1}['red'] == 1 and type(c) is Colour and str(c.value) == 'red' and c != "
              "Colour.BLUE"),
    (COLOURS, "n = N(2)\nassert n == 2 and n is N.B and n + 1 == 3 and n > N.A and N.A < 2 and [1, "
    "2][N.A] == 2\n"
              "assert max(N) is N.B and list(N) == [1, 2] and isinstance(n, int) and n.name == 'B'"),
    (COUNTS, "from collections import defaultdict\nd = f()\nassert d == {'a': 1} and d['z'] == 0 and "
    "len(d) == 2\n"
             "d['k'] += 2\nassert dict(d) == {'a': 1, 'z': 0, 'k': 2} and type(d) is defaultdict\n"
             "assert isinstance(d, dict) and isinstance(d, defaultdict)"),
    (LRU, "c = LRU()\nc.put(1, 1)\nc.put(2, 2)\nc.get(1)\nc.put(3, 3)\nassert list(c) == [1, 3] and 2 "
    "not in c"),
    ("from collections import OrderedDict\ndef f(): d = OrderedDict(a=1, b=2); d.move_to_end('a'); return d",
     "for _ in [1]: assert list(f()) == ['b', 'a']"),
    (TABLE, "t = Table(a=1)\nassert t.a == 1 and t == {'a': 1} and not hasattr(t, 'z')\nt['b'] = 2\n"
    "assert t.b == 2"),
    (VECTOR, "for _ in [1]: assert V((1, 2)) + V((3, 4)) == (4, 6)\na = b = W(1)\na += W(2)\nassert a "
    "is b and b.x == 3"),
    (WORD, "for _ in [1]: assert Word('A') == Word('a') and len({Word('A'), Word('a')}) == 1"),
    ("class F(float): pass", "import json, pytest\nfor _ in [1]:\n    assert F(2.5) == "
    "pytest.approx(2.5) and F(1) + 1 == 2\n"
     "    assert json.dumps([F(2.5)]) == '[2.5]' and type(F(1)) is F"),
    (MANAGER.format(suppressed="ValueError"), "m = M()\nwith m as k: fail()\nwith m: raise "
    "ValueError('mine')\n"
     "with m: pass\nassert k is m and m.log == ['in', 'ValueError', 'in', 'ValueError', 'in', None]"),
    (FUNCTIONS, "seen = []\ndef h(x): return x + 1\nb = Bus()\nb.on += [h, seen.append]\n"
                "assert b.go(1) == [2, None]\n"
                "assert b.on[0] is h\nb.off(h)\nassert b.go(2) == [None] and seen == [1, 2]"),
    (FUNCTIONS, "n = []\n@memo\ndef sq(x): n.append(x); return x * x\n"
                "assert sq(3) == sq(3) == 9 and n == [3] and sq.__name__ == 'sq'"),
    (FUNCTIONS, "i = It()\nassert iter(i) is i and next(i) == 2\n"
                "assert list(i) == [1, 0] and next(i, None) is None"),
    (FUNCTIONS, "import dataclasses, decimal, json\np = P(1)\ntry: p.x = 2\n"
                "except dataclasses.FrozenInstanceError: pass\nelse: assert 0\ntry: load('{')\n"
                "except json.JSONDecodeError as e: assert e.pos == 1\nelse: assert 0\ntry: divide()\n"
                "except decimal.DivisionByZero: pass\nelse: assert 0\n"
                "assert dataclasses.asdict(p) == {'x': 1} and dataclasses.replace(p, x=2).x == 2"),
    (CLASSES, "for _ in [1]: assert issubclass(B, A) and issubclass(A, object) and not issubclass(A, "
    "(B, int))"),
    (CLASSES, "a = A()\nassert type(a) is A and type(B()) is not A and a.__class__.__name__ == 'A'\n"
              "assert a.__dict__ == vars(a) == {'n': 1} and a.__doc__ == A.__doc__ == 'of A' and 'n' in "
              "dir(a)\n"
              "del a.n\nassert not hasattr(a, 'n') and f'{a:>3}' == 'A>3' and list(reversed(a)) == [3, 2]"),
    (CLASSES, "import copy\na = A()\nb = copy.copy(a)\nb.n = 5\nassert a.n == copy.deepcopy([a])[0].n == 1"),
    (CLASSES, "from types import GeneratorType\nfrom collections.abc import Iterator, Sequence\nx = f()\n"
              "assert isinstance(x, GeneratorType) and isinstance(x, Iterator) and not isinstance(x, "
              "Sequence)\n"
              "assert not callable(A()) and callable(f) and kind(3) is int and kind([]) == list"),
    (CLASSES, "try: g()\nexcept E as e: assert isinstance(e, L)\nelse: assert 0\nassert issubclass(E, L)\n"
              "def h(): raise E(3)\nassert caught(h) == (3,)"),
]  # fmt: skip
# Each fails in one process with the program, or nobody in the judge can tell.
FAILING = [
    (MANAGER.format(suppressed="Exception"), "m = M()\nwith m: assert fail is None"),
    (MANAGER.format(suppressed="TypeError"), "m = M()\nwith m: fail()"),
    (VECTOR, "for _ in [1]: assert V((1, 2)) + (3, 4) == (1, 2, 3, 4)"),
    (
        "class V:\n    def __add__(self, o): return self",
        "import pytest\nwith pytest.raises(TypeError): V() + 3",
    ),
    (
        "class V:\n    def __lt__(self, o): return True",
        "import pytest\nwith pytest.raises(TypeError): V() < 3",
    ),
    ("def f(s): return s", "for _ in [1]: assert f('ab c') is not 'ab c'"),
    (COUNTS, "d = f()\nassert d['a'] == 2"),
    (POINT, "p = f(1, 3)\nassert p.x == 1 and p.y == 2"),
]
LIAR = (
    "class Liar({base}):\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n"
    "    def __hash__(s): return hash(4)\n    def __lt__(s, o): return True\n    __gt__ = __le__ = "
    "__ge__ = __lt__\n"
    "    def __bool__(s): return True\n    def __add__(s, *o): return 0.0\n"
    "    __sub__ = __rsub__ = __radd__ = __abs__ = __float__ = __xor__ = __add__\n"
    "    def __contains__(s, o): return True\n    __class__ = property(lambda s: int)\ndef f(x): return "
    "Liar({of})"
)


@in_one_jail
@pytest.mark.parametrize(("program", "test"), HOLDING)
def test_what_holds_in_one_process_holds_in_the_judge(ask: Any, program: str, test: str) -> None:
    assert [(one.outcome, one.message) for one in ask(program, test).tests] == [("passed", "")]


@in_one_jail
@pytest.mark.parametrize(("program", "test"), FAILING)
def test_what_does_not_hold_does_not_pass(ask: Any, program: str, test: str) -> None:
    assert ask(program, test).outcome in ("failed", "raised")


@in_one_jail
@pytest.mark.parametrize(
    ("base", "of", "tests"),
    [
        ("int", "5", ["f(2) == 4", "4 == f(2)", "f(2) < 4", "f(2) in (3, 4)", "f(2) in {4: 1}", "{4: "
        "1}[f(2)]",
                      "abs(f(2) - 4) < 1e-6", "4 - f(2) == 0", "f(2) + 1 == 0", "[f(2)] == [4]",
                      "{f(2)} == {4}",
                      "f(2) == pytest.approx(4)", "type(f(2)) is int", "not f(2) != 4", "f(2) is 4"]),
        ("float", "2.5", ["f(2) == 4.0", "f(2) == pytest.approx(4)", "math.isclose(f(2), 4)"]),
        ("str", "'no'", ["f(2) == 'ab'", "'ab' == f(2)", "'ab' in f(2)", "f(2) < 'ab'"]),
        ("list", "[1]", ["f(2) == [1, 2]", "[1, 2] == f(2)", "7 in f(2)", "f(2) > [4]", "sorted(f(2)) "
        "== [1, 2]"]),
        ("tuple", "[1]", ["f(2) == (1, 2)", "(1, 2) == f(2)", "{(1, 2): 1}[f(2)]"]),
        ("dict", "a=1", ["f(2) == {'a': 2}", "{'a': 2} == f(2)", "f(2)['a'] == 2", "'b' in f(2)"]),
        ("set", "[1]", ["f(2) == {2}", "{2} == f(2)", "2 in f(2)", "f(2) >= {2}"]),
    ],
)  # fmt: skip
def test_an_object_built_on_a_value_is_compared_as_that(
    ask: Any, base: str, of: str, tests: list[str]
) -> None:
    for test in tests:
        verdict = ask(LIAR.format(base=base, of=of), f"import math, pytest\nfor _ in [1]: assert {test}")
        assert verdict.outcome in ("failed", "raised"), test


def test_a_pattern_of_the_programs_class_is_refused() -> None:
    with pytest.raises(NotRemote, match="pattern of the class `A`"):
        remote("match f():\n    case A(x=1): ok = True\n    case _: ok = False\nassert ok", "")
