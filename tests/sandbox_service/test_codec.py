"""The codec: what a candidate's values become, and what hostile bytes do not."""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_service.decode import CodecError, Opaque, decode, parse
from sandbox_service.inside.codec import MAX_BYTES, encode

texts = st.text(st.characters(exclude_categories=()))  # lone surrogates included
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts | st.binary()
    | st.complex_numbers(allow_nan=False) | st.just(...) | st.builds(bytearray, st.binary())
    | st.builds(range, st.integers(), st.integers(), st.integers(1, 9))
    | st.decimals(allow_nan=False) | st.fractions() | st.datetimes() | st.dates() | st.times()
    | st.timedeltas()
)  # fmt: skip
hashables = st.recursive(
    scalars.filter(lambda value: not isinstance(value, bytearray)),
    lambda inner: st.tuples(inner, inner) | st.frozensets(inner, max_size=4),
    max_leaves=5,
)
values = st.recursive(
    scalars | hashables,
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.tuples(inner, inner)
        | st.dictionaries(hashables, inner, max_size=5)
        | st.sets(hashables, max_size=5)
        | st.builds(collections.deque, st.lists(inner, max_size=5))
    ),
    max_leaves=20,
)


def types_of(value: Any) -> Any:
    """Return the types of a value all the way down, as == calls 1 and True and 1.0 the same."""
    if isinstance(value, list | tuple | collections.deque):
        return type(value), [types_of(one) for one in value]
    if isinstance(value, dict):
        return dict, [(types_of(key), types_of(one)) for key, one in value.items()]
    if isinstance(value, set | frozenset):
        return type(value), sorted(repr(types_of(one)) for one in value)
    return type(value)


@given(values)
def test_a_plain_value_comes_back_equal_and_of_the_same_types(value: Any) -> None:
    back = decode(encode(value))
    assert back == value
    assert types_of(back) == types_of(value)


@given(values)
def test_encoding_is_repeatable_after_a_round_trip(value: Any) -> None:
    once = encode(value)
    assert sorted(encode(decode(once))) == sorted(once)


def test_nan_and_signed_zero_and_infinity_survive() -> None:
    assert math.isnan(decode(encode(math.nan)))
    assert math.copysign(1, decode(encode(-0.0))) == -1
    assert decode(encode([math.inf, -math.inf])) == [math.inf, -math.inf]


class AlwaysEqual:
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = object.__hash__


def test_an_always_equal_object_equals_nothing() -> None:
    for value in (AlwaysEqual(), [AlwaysEqual()], {1: AlwaysEqual()}, (AlwaysEqual(),)):
        back = decode(encode(value))
        assert back != value or not isinstance(back, Opaque)
        for expected in (1, "a", [1], {1: 1}, (1,), None, back if isinstance(back, Opaque) else 0):
            assert not back == expected  # noqa: SIM201
            assert back != expected


def test_subclasses_fall_to_their_base_whatever_they_override() -> None:
    def lie(*_: object) -> Any:
        raise AssertionError("asked")

    everything = (
        "__eq__ __hash__ __len__ __iter__ __getitem__ __int__ __index__ __str__ __repr__ __float__ items keys"
    )
    for base, value in (
        (int, 7), (float, 2.5), (str, "abc"), (bytes, b"ab"), (bytearray, b"ab"), (list, [1, 2]), (tuple,
        (1, 2)),
        (dict, {1: 2}), (set, {1}), (frozenset, {1}), (complex, 2j), (collections.deque, [1]),
    ):  # fmt: skip
        kind = type("Liar", (base,), {})
        liar = kind(value)
        for name in everything.split():
            setattr(kind, name, lie)
        back = decode(encode(liar))
        assert type(back) is base
        assert back == base(value)


def test_library_subclasses_fall_to_their_base() -> None:
    point = collections.namedtuple("point", "x y")

    class Colour(enum.IntEnum):
        RED = 3

    assert decode(encode(collections.Counter("aab"))) == {"a": 2, "b": 1}
    assert decode(encode(collections.defaultdict(list, {1: [2]}))) == {1: [2]}
    assert decode(encode(point(1, 2))) == (1, 2)
    assert decode(encode(Colour.RED)) == 3


def test_iterators_are_read_once_and_stay_iterators() -> None:
    for made in ((i for i in range(3)), map(int, "012"), filter(lambda i: i < 3, range(9)), iter([0, 1, 2])):
        back = decode(encode(made))
        assert back != [0, 1, 2]
        assert list(back) == [0, 1, 2]
    assert list(decode(encode(zip("a", "b", strict=True)))) == [("a", "b")]
    assert decode(encode({1: 2}.keys())) == {1}
    assert decode(encode({1: 2}.items())) == {(1, 2)}
    assert list(decode(encode({1: 2}.values()))) == [2]


def test_an_endless_or_breaking_iterator_is_opaque() -> None:
    def endless() -> Any:
        while True:
            yield 1

    def breaking() -> Any:
        yield 1
        raise SystemError

    assert isinstance(decode(encode(endless())), Opaque)
    assert isinstance(decode(encode(breaking())), Opaque)


def test_a_value_over_a_budget_is_opaque() -> None:
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    cycle: list[Any] = []
    cycle.append(cycle)
    shared: Any = [0] * 10
    for _ in range(20):
        shared = [shared] * 10
    for value in (
        deep,
        cycle,
        shared,
        "a" * MAX_BYTES,
        "é" * 500_000,
        b"a" * MAX_BYTES,
        1 << 300_000,
        [0] * 100_001,
    ):
        data = encode(value)
        assert len(data) < 300
        assert isinstance(decode(data), Opaque)


class Hostile(type):
    """A metaclass that lies about everything and raises at the rest."""

    def __getattribute__(cls, name: str) -> Any:
        if name in ("__mro__", "__name__", "__module__", "__dict__"):
            raise SystemExit(name)
        return super().__getattribute__(name)

    def __eq__(cls, other: object) -> bool:
        return True

    def __hash__(cls) -> int:
        raise SystemExit("hash")

    def __instancecheck__(cls, instance: object) -> bool:
        return True


def _raise(*_: object) -> Any:
    raise SystemExit(0)


def test_encode_never_raises_for_hostile_objects() -> None:
    names = (
        "__eq__ __ne__ __hash__ __len__ __iter__ __next__ __bool__ __getattr__ __repr__ __str__ __reduce__ "
        "__class__ __contains__ __getitem__ __index__ __int__ __float__ __bytes__ keys items"
    )
    space: dict[str, Any] = {
        name: property(_raise) if name == "__class__" else _raise for name in names.split()
    }
    for bases in ((), (int,), (str,), (list,), (dict,), (set,), (tuple,), (datetime.date,)):
        kind = Hostile("Hostile", bases, space | {"__module__": 3})
        made = bases[0].__new__(kind, 2020, 1, 1) if bases == (datetime.date,) else None
        made = made if made is not None else (bases[0].__new__(kind) if bases else object.__new__(kind))
        for value in (made, [made], (made, 1), {1: made}):
            decode(encode(value))


def test_a_types_name_with_a_lone_surrogate_stays_readable() -> None:
    kind = type("Odd", (), {"__module__": "a\ud800\nb"})
    assert repr(decode(encode([kind()]))[0]) == "<object of type a?\nb.Odd>"


def test_a_spoofed_class_stays_what_it_is() -> None:
    class Spoof:
        @property
        def __class__(self) -> Any:
            return int

    assert isinstance(Spoof(), int)
    assert isinstance(decode(encode(Spoof())), Opaque)


def test_keys_that_are_equal_once_rebuilt_are_refused() -> None:
    class Key(int):
        def __hash__(self) -> int:
            return 99

        def __eq__(self, other: object) -> bool:
            return False

    with pytest.raises(CodecError):
        decode(encode({Key(1): 2, Key(1): 3}))
    with pytest.raises(CodecError):
        decode(encode({Key(1), Key(1)}))


def test_an_opaque_object_has_the_truth_it_claims_and_no_more() -> None:
    assert decode(encode(re.match("a", "a")))
    assert not decode(encode(type("Empty", (), {"__len__": lambda self: 0})()))
    with pytest.raises(TypeError):
        bool(decode(encode(type("Odd", (), {"__bool__": _raise_value})())))


def _raise_value(*_: object) -> Any:
    raise ValueError


def test_library_values_keep_their_type() -> None:
    zone = datetime.timezone(datetime.timedelta(hours=2))
    for value in (
        decimal.Decimal("1.10"), decimal.Decimal("-1E-7"), decimal.Decimal("Infinity"),
        fractions.Fraction(-1, 3),
        datetime.datetime(2020, 1, 2, 3, 4, 5, 6, zone), datetime.date.min, datetime.time.max,
        datetime.timedelta.min,
    ):  # fmt: skip
        back = decode(encode(value))
        assert back == value
        assert type(back) is type(value)
        assert str(back) == str(value)


def test_parse_gives_the_tree_without_making_values() -> None:
    assert parse(encode({1: [2.0]})) == ["d", [[["i", "0x1"], ["l", [["f", "0x1.0000000000000p+1"]]]]]]
    with pytest.raises(CodecError):
        parse(b'{"a":1}')
