"""How long a program is: a true prefix code, with its decoder.

A program's code is self-delimiting: read bit by bit, its end is known. Each line is a Huffman symbol for the
operation and then its arguments. In a *regular* line these are in the ranges the DSL is used with, and take
few bits; any other line of the DSL is written in full after the symbol ODD. LAST comes before the output's
line. FREE stands for a whole program in any other Python, as compressed text. Nothing is free: a byte of a
literal costs 8 bits (fewer where the list declares that all its numbers are small), and list lengths,
references and predicates are all written.

A reference is a rank. For an operation on one list the latest line is rank 0; for one on several, the
earliest line that no line has used yet.
"""

from __future__ import annotations

from trainer.channels.program.bits import MAX_UNARY, Bits, BitsError, Huffman, plain, plains, read_rice, rice
from trainer.channels.program.odd_code import PREDICATE_CODE, read_free, read_odd, write_free, write_odd
from trainer.channels.program.program import (
    MAX_LINES,
    OPERATIONS,
    SAME,
    Argument,
    Line,
    NotDsl,
    Program,
    Ref,
    parse,
)
from trainer.channels.program.references import Order, read_ref, write_ref

LAST, ODD, FREE = "<last>", "<odd>", "<free>"
# Per 1,000 symbols of 1,500 shortened programs of up to 128 bytes (tasks/sequences.py); the rest is seldom.
_SHARES = {
    LAST: 200, "repeat_num": 155, "range_func_interval": 137, "range_func_up": 132, "set_list": 128,
    "interleave": 95, "concatenate": 75, "modulo_two_lists": 11, "substitute": 11, "modulo_item_list": 10,
    "reverse_list": 10, "filter": 9, "repeat_list": 8, ODD: 0.5, FREE: 0.2,
}  # fmt: skip
# The last line is another matter: it puts the parts together. SAME is how the generator itself ends.
_LAST_SHARES = {
    "concatenate": 600, "interleave": 150, "repeat_num": 70, "set_list": 60, "range_func_up": 60,
    "range_func_interval": 55, SAME: 40, ODD: 0.5,
}  # fmt: skip
_WEIGHTS = {name: _SHARES.get(name, 4.0) for name in (*OPERATIONS, LAST, ODD, FREE)}
_LAST_WEIGHTS = {name: _LAST_SHARES.get(name, 2.0) for name in (SAME, *OPERATIONS, ODD)}
_SYMBOLS, _LAST_SYMBOLS = Huffman(_WEIGHTS), Huffman(_LAST_WEIGHTS)

# The regular form of each operation's arguments: a field and its code. byte: 8 bits. rN: Rice code with
# parameter N. ref, refs, pred, bytes, init: see `_field`. Lengths are stored less 1, small factors less 2.
FIELDS = {
    "range_func_up": ("byte", "r4"), "range_func_interval": ("byte", "r1", "r4", "r0"),
    "repeat_num": ("r4", "byte"), "set_list": ("bytes",), "repeat_list": ("r1", "ref"),
    "reverse_list": ("ref",), "substitute": ("ref", "byte", "byte"),
    "get_subsequence_with_jumps": ("ref", "r1"), "get_subsequence_between_indices": ("ref", "r4", "r4"),
    "max_n": ("ref", "r3"), "min_n": ("ref", "r3"), "add_item_list": ("ref", "byte"),
    "subtract_item_list": ("ref", "byte"), "modulo_item_list": ("ref", "byte"), "filter": ("pred", "ref"),
    "scan_add": ("ref", "init"), "add_two_lists": ("pair",), "subtract_two_lists": ("pair",),
    "modulo_two_lists": ("pair",), "interleave": ("pair",), "concatenate": ("refs",), SAME: ("ref",),
}  # fmt: skip


def encode(source: Program | str) -> str:
    """Return a program's code as a string of 0 and 1.

    source  a program, or a text: one of the DSL is encoded as the program it is, any other as free Python
    """
    if isinstance(source, str):
        try:
            source = parse(source)
        except NotDsl:
            return _SYMBOLS.codes[FREE] + write_free(source)
    order = Order()
    return "".join(_line(line, i, len(source.lines), order) for i, line in enumerate(source.lines))


def length_bits(source: Program | str) -> int:
    """Return the length of a program's code in bits."""
    return len(encode(source))


def decode(bits: Bits) -> Program | str:
    """Read one program from where the bits stand; what comes after it is left.

    returns  the program, or the text of free Python
    raises   BitsError if this is no program's code
    """
    order, lines = Order(), []
    for number in range(MAX_LINES):
        symbol = _SYMBOLS.read(bits)
        if symbol == FREE:
            if lines:
                raise BitsError(f"free Python inside a program, before bit {bits.place}")
            return read_free(bits)
        last = symbol == LAST
        symbol = _LAST_SYMBOLS.read(bits) if last else symbol
        if symbol == ODD:
            line = read_odd(bits, number, order)
        else:
            fields = [_read_field(bits, field, number, order) for field in FIELDS[symbol]]
            line = Line(symbol, _arguments(symbol, [part for field in fields for part in field]))
        lines.append(line)
        if last:
            return Program(tuple(lines))
        order.new(number)
    raise BitsError(f"a program of over {MAX_LINES} lines")


def _line(line: Line, number: int, count: int, order: Order) -> str:
    last = number == count - 1
    codes = _LAST_SYMBOLS.codes if last else _SYMBOLS.codes
    head = _SYMBOLS.codes[LAST] if last else ""
    regular = _regular(line)
    if regular is None:
        body = codes[ODD] + write_odd(line, number, order)
    else:
        fields = zip(FIELDS[line.operation], regular, strict=True)
        body = codes[line.operation] + "".join(_field(field, value, order) for field, value in fields)
    order.new(number)
    return head + body


# --- regular lines ---


def _regular(line: Line) -> list[Argument] | None:
    """Return the values of a regular line's fields, or None for an odd line."""
    fields, given = FIELDS[line.operation], line.arguments
    match line.operation, given:
        case "range_func_up", (start, end):
            values: list[Argument] = [start, end - start]
        case "range_func_interval", (start, end, step):
            if step < 2 or end <= start:
                return None
            values = [start, step - 2, *divmod(end - start - 1, step)]
        case "repeat_num", (num, value):
            values = [num - 1, value]
        case "repeat_list", (num, of):
            values = [num - 2, of]
        case "get_subsequence_with_jumps", (of, jump):
            values = [of, jump - 2]
        case "get_subsequence_between_indices", (of, start, end):
            values = [of, start, end - start - 1]
        case (("max_n" | "min_n"), (of, n)):
            values = [of, n - 1]
        case "scan_add", (of, *initializer):
            values = [of, tuple(initializer)]
        case _ if fields in (("pair",), ("refs",)):
            values = [given]
        case _:
            values = list(given)
    return values if all(map(_fits, fields, values)) else None


def _fits(field: str, value: Argument) -> bool:
    match field:
        case "byte":
            return 0 <= value < 256
        case "ref":
            return isinstance(value, Ref)
        case "pair" | "refs":
            return all(isinstance(v, Ref) for v in value) and (
                field == "pair" or _rice_fits(len(value) - 2, 1)
            )
        case "pred":
            return True
        case "bytes":
            if isinstance(value, Ref) or not _rice_fits(len(value) - 1, 4):
                return False
            return min(value) >= 0 and max(value) < 256
        case "init":
            return all(0 <= v < 256 for v in value)
        case _:
            return _rice_fits(value, int(field[1:]))


def _rice_fits(value: int, k: int) -> bool:
    """Whether Rice's code of a number is read back, whose first part is in unary."""
    return value >= 0 and value >> k <= MAX_UNARY


def _field(field: str, value: Argument, order: Order) -> str:
    match field:
        case "byte":
            return plain(value, 8)
        case "ref":
            return write_ref(value.line, order, several=False)
        case "pair":
            return "".join(write_ref(v.line, order, several=True) for v in value)
        case "refs":
            return rice(len(value) - 2, 1) + "".join(write_ref(v.line, order, several=True) for v in value)
        case "pred":
            return PREDICATE_CODE.codes[value]
        case "bytes":
            width = max(1, max(value).bit_length())
            declared = "0" if width == 8 else "1" + plain(width - 1, 3)
            return rice(len(value) - 1, 4) + declared + plains(value, width)
        case "init":
            return "1" + plain(value[0], 8) if value else "0"
        case _:
            return rice(value, int(field[1:]))


def _read_field(bits: Bits, field: str, number: int, order: Order) -> list[Argument]:
    match field:
        case "byte":
            return [bits.number(8)]
        case "ref":
            return [read_ref(bits, order, several=False)]
        case "pair":
            return [read_ref(bits, order, several=True) for _ in range(2)]
        case "refs":
            return [read_ref(bits, order, several=True) for _ in range(read_rice(bits, 1) + 2)]
        case "pred":
            return [PREDICATE_CODE.read(bits)]
        case "bytes":
            length = read_rice(bits, 4) + 1
            width = bits.number(3) + 1 if bits.take(1) == "1" else 8
            return [bits.numbers(length, width)]
        case "init":
            return [bits.number(8)] if bits.take(1) == "1" else []
        case _:
            return [read_rice(bits, int(field[1:]))]


def _arguments(operation: str, values: list[Argument]) -> tuple[Argument, ...]:
    """Undo `_regular`."""
    match operation, values:
        case "range_func_up", (start, span):
            values = [start, start + span]
        case "range_func_interval", (start, step, count, rest):
            values = [start, start + count * (step + 2) + rest + 1, step + 2]
        case "repeat_num", (num, value):
            values = [num + 1, value]
        case "repeat_list", (num, of):
            values = [num + 2, of]
        case "get_subsequence_with_jumps", (of, jump):
            values = [of, jump + 2]
        case "get_subsequence_between_indices", (of, start, size):
            values = [of, start, start + size + 1]
        case (("max_n" | "min_n"), (of, n)):
            values = [of, n + 1]
    return tuple(values)
