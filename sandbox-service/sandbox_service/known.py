"""The names a test may use in the judge: builtins that only compute, and modules of the standard library.

`split` asks here what is known and what therefore must be the candidate's; `judge_worker` evaluates with
`namespace()` and nothing else. Standard library only. This is hygiene, not the wall: the wall is that no
candidate code reaches the judge, and that the worker is a limited process.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

_COMPUTING = (
    "abs", "all", "any", "ascii", "bin", "bool", "bytearray", "bytes", "callable", "chr", "complex",
    "dict", "divmod", "enumerate", "filter", "float", "format", "frozenset", "hash", "hex", "int",
    "isinstance", "issubclass", "iter", "len", "list", "map", "max", "min", "next", "object", "oct",
    "ord", "pow", "range", "repr", "reversed", "round", "set", "slice", "sorted", "str", "sum",
    "tuple", "type", "zip", "Ellipsis", "NotImplemented",
)  # fmt: skip
_ERRORS = tuple(
    name
    for name, value in vars(builtins).items()
    if isinstance(value, type) and issubclass(value, BaseException)
)
BUILTINS = frozenset(_COMPUTING + _ERRORS)
ALL_BUILTINS = frozenset(vars(builtins))

_MODULES = (
    "bisect", "cmath", "collections", "datetime", "decimal", "fractions", "functools", "heapq",
    "itertools", "math", "re", "statistics", "string", "sys",
)  # fmt: skip
_ONLY = {"sys": ("getsizeof", "maxsize", "float_info", "int_info", "version_info", "byteorder")}
# What leads to the interpreter, and what outlives an evaluation: one worker serves many jobs.
_NEVER = {
    "string": ("Formatter",),
    "functools": ("partialmethod", "singledispatchmethod", "total_ordering", "update_wrapper", "wraps"),
    "decimal": (
        "BasicContext", "DefaultContext", "ExtendedContext", "getcontext", "localcontext", "setcontext",
    ),
    "re": ("purge",),
}  # fmt: skip
_FOREIGN = (
    "np", "numpy", "pd", "pandas", "sp", "scipy", "plt", "matplotlib", "torch", "tf", "tensorflow",
    "sympy", "pytest", "hypothesis", "sklearn", "requests", "nx", "networkx",
)  # fmt: skip
FOREIGN = frozenset(sys.stdlib_module_names) | frozenset(_FOREIGN)

_VALUES: tuple[type, ...] = (
    int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range, slice,
)  # fmt: skip
VALUE_ATTRIBUTES = frozenset(name for kind in _VALUES for name in dir(kind) if not name.startswith("_"))
_FRAMES = ("_", "gi_", "cr_", "ag_", "f_", "tb_", "co_", "func_")


def _public(name: str, module: ModuleType) -> dict[str, Any]:
    """Return what a module offers: `__all__` or all public names, without modules and the listed few."""
    names = _ONLY.get(name) or getattr(module, "__all__", None) or dir(module)
    return {
        attribute: getattr(module, attribute)
        for attribute in names
        if not attribute.startswith("_")
        and attribute not in _NEVER.get(name, ())
        and not isinstance(getattr(module, attribute, None), ModuleType)
    }


MODULES: dict[str, dict[str, Any]] = {name: _public(name, importlib.import_module(name)) for name in _MODULES}


def is_plain_attribute(name: str) -> bool:
    """Whether the judge may read an attribute: none of those that lead from a value to the interpreter, nor
    the one by which an abstract class of the library, as `Fraction`, is told of others for good."""
    return not name.startswith(_FRAMES) and name not in ("mro", "register")


def namespace() -> dict[str, Any]:
    """Return fresh globals for one evaluation."""
    return dict(_NAMESPACE)


_NAMESPACE: dict[str, Any] = {
    "__builtins__": {name: getattr(builtins, name) for name in sorted(BUILTINS)},
    **{name: SimpleNamespace(**public) for name, public in MODULES.items()},
}
