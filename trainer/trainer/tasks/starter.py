"""The starter world: small MBPP-like tasks composed of a source, a filter, a map and a reduction.

Generated, never copied; more than a hundred thousand distinct tasks over 1,811 compositions.
The split is by composition: a test task combines parts that never met in training.

Example row, task_id "starter/range+odd+square+sum/3":
    text       "Write a function to find the sum of the odd numbers from 1 to n, each squared."
    signature  "def solve(n):"
    tests      ("assert solve(4) == 10", ...)
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from trainer.starter.grammar import NAMES, SOURCES, Part, Source, reference
from trainer.starter.parts import FILTERS, MAPS, REDUCTIONS
from trainer.tasks.task import Task

SPLITS = ("train", "validation", "test")
_TESTS_PER_TASK = 4
_TRIES = 40
_PER_COMPOSITION = 100
_BARREN_TURNS = 20


class Composition(NamedTuple):
    """What a task is made of: the names of its four parts."""

    source: str
    filter: str
    map: str
    reduction: str

    @property
    def name(self) -> str:
        """The four names, joined by plus signs."""
        return "+".join(self)

    @property
    def split(self) -> str:
        """The split this composition belongs to, by its hash: 76 % train, 8 % validation, 16 % test."""
        bucket = int.from_bytes(hashlib.sha256(self.name.encode()).digest()[:4], "big") % 100
        if bucket < 76:
            return "train"
        return "validation" if bucket < 84 else "test"


def compositions(split: str) -> list[Composition]:
    """Return every composition of a split, in a fixed order.

    split   train, validation or test
    raises  ValueError for any other name
    """
    if split not in SPLITS:
        raise ValueError(f"split={split!r}: no such split; take one of {', '.join(SPLITS)}")
    return [found for found in _all_compositions() if found.split == split]


def _all_compositions() -> Iterator[Composition]:
    for source in SOURCES.values():
        for kept in FILTERS.values():
            for mapped in MAPS.values():
                for reduction in REDUCTIONS.values():
                    if _fit(source, kept, mapped, reduction):
                        yield Composition(source.name, kept.name, mapped.name, reduction.name)


def _fit(source: Source, kept: Part, mapped: Part, reduction: Part) -> bool:
    """Whether the four parts make a sensible task: the types meet, and a count needs no map."""
    if source.kind not in kept.takes or source.kind not in mapped.takes:
        return False
    if kept.signed_only and source.name != "list":
        return False
    if mapped.signed_only and source.name != "list":
        return False
    if reduction.name == "count" and (mapped.name != "all" or kept.name == "all"):
        return False
    return (mapped.gives or source.kind) in reduction.takes


class StarterTask(NamedTuple):
    """A task, its composition, and its reference with the marks that shorthand is made from.

    marked  the reference code in the grammar's markup (see trainer.starter.grammar)
    """

    task: Task
    composition: Composition
    marked: str


def make_task(composition: Composition, rng: random.Random, serial: int = 0) -> StarterTask | None:
    """Draw names, constants, wording and tests for a composition.

    serial   makes the task_id unique
    returns  the task, or None if no inputs were found on which the reference is well defined and
             shows what the task is about
    """
    source, kept = SOURCES[composition.source], FILTERS[composition.filter]
    mapped, reduction = MAPS[composition.map], REDUCTIONS[composition.reduction]
    name, param = rng.choice(NAMES), source.param
    filter_k, map_k = kept.constant(rng), mapped.constant(rng)
    marked = reference(source, kept, mapped, reduction, name, param, filter_k, map_k)
    code = plain(marked)
    tests = _tests(code, name, source, rng)
    if tests is None:
        return None
    items = rng.choice(kept.words).format(items=source.items, k=filter_k)
    after = rng.choice(mapped.words).format(k=map_k)
    place = rng.choice(source.words).format(p=param)
    what = rng.choice(reduction.words).format(items=items, place=place)
    text = f"Write a function to {what}{after}."
    task = Task(
        task_id=f"starter/{composition.name}/{serial}", text=text, signature=f"def {name}({param}):",
        entry_point=name, reference=code, tests=tests, family=f"{composition.source}+{composition.reduction}",
    )  # fmt: skip
    return StarterTask(task, composition, marked)


def plain(marked: str) -> str:
    """Return marked code without its marks."""
    out, rest = [], marked
    while "⟦" in rest:
        before, _, rest = rest.partition("⟦")
        inner, _, rest = rest.partition("⟧")
        out += [before, inner.partition("|")[2]]
    return "".join([*out, rest])


def _tests(code: str, name: str, source: Source, rng: random.Random) -> tuple[str, ...] | None:
    function = _compiled(code, name)
    for _ in range(_TRIES):
        tests, seen = [], set()
        for _ in range(_TESTS_PER_TASK):
            argument = source.draw(rng)
            try:
                value = function(argument)
            except (ValueError, ZeroDivisionError, IndexError):
                break
            if isinstance(value, int) and abs(value) > 10**12:
                break
            seen.add(repr(value))
            tests.append(f"assert {name}({argument!r}) == {value!r}")
        if len(tests) == _TESTS_PER_TASK and len(seen) >= _TESTS_PER_TASK - 1:
            return tuple(tests)
    return None


def fresh_tests(task: Task, seed: int) -> tuple[str, ...]:
    """Return other assertions of a starter task, on inputs drawn anew.

    returns  none for a task whose reference our grammar does not write, or where no inputs were found
    """
    composition = composition_of(task.task_id)
    if composition is None or task.entry_point not in NAMES:
        return ()
    # A row of any data set may call itself a starter task: what is run is what the grammar wrote.
    written = _references(composition, task.entry_point)
    code = next((code for code in written if code == task.reference), None)
    if code is None:
        return ()
    source, rng = SOURCES[composition.source], random.Random(f"{task.task_id}/{seed}")
    drawn = (_tests(code, task.entry_point, source, rng) for _ in range(_TRIES))
    found = next((tests for tests in drawn if tests), ())
    return tuple(test for test in found if test not in task.tests)


def composition_of(task_id: str) -> Composition | None:
    """Return what the starter task of this name is made of; None for the name of another data set's task."""
    world, _, rest = task_id.partition("/")
    return _by_name().get(rest.partition("/")[0]) if world == "starter" else None


@functools.cache
def _by_name() -> Mapping[str, Composition]:
    return {composition.name: composition for composition in _all_compositions()}


def _references(composition: Composition, name: str) -> Iterator[str]:
    """Give every reference that the grammar writes for a composition, the function called `name`."""
    source, kept = SOURCES[composition.source], FILTERS[composition.filter]
    mapped, reduction = MAPS[composition.map], REDUCTIONS[composition.reduction]
    for filter_k, map_k in itertools.product(kept.constants, mapped.constants):
        yield plain(reference(source, kept, mapped, reduction, name, source.param, filter_k, map_k))


def _compiled(code: str, name: str) -> Callable[[Any], Any]:
    """Run a reference that our own grammar wrote; never a program from a model, or code from a data set."""
    namespace: dict[str, Any] = {}
    exec(code, namespace)
    found: Callable[[Any], Any] = namespace[name]
    return found


def generate(split: str, n: int, seed: int = 0) -> list[StarterTask]:
    """Return n distinct tasks of a split, compositions in turn so that each is met equally often.

    n       number of tasks
    seed    the same seed gives the same tasks
    raises  ValueError if n is no number of tasks, or the split does not hold so many distinct ones
    """
    rng = random.Random(f"{split}/{seed}")
    pool = compositions(split)
    if n < 1:
        raise ValueError(f"n={n}: ask for at least one task")
    if n > len(pool) * _PER_COMPOSITION:
        raise ValueError(
            f"n={n}: the {split} split gives {len(pool) * _PER_COMPOSITION} tasks at most; ask for fewer"
        )
    rng.shuffle(pool)
    found: list[StarterTask] = []
    texts: set[tuple[str, str]] = set()
    turn = barren = 0
    while barren < _BARREN_TURNS:
        before = len(found)
        for composition in pool:
            made = make_task(composition, rng, serial=turn)
            key = (made.task.text, made.task.signature) if made else None
            if made and key and key not in texts:
                texts.add(key)
                found.append(made)
                if len(found) == n:
                    return found
        turn, barren = turn + 1, 0 if len(found) > before else barren + 1
    raise ValueError(f"n={n}: the {split} split gave only {len(found)} distinct tasks; ask for fewer")


def starter_tasks(split: str, n: int, seed: int = 0) -> list[Task]:
    """Return n distinct tasks of a split (train, validation, test); see generate."""
    return [made.task for made in generate(split, n, seed)]
