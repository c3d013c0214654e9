"""How a program's code refers to earlier lines: by rank, the likeliest first."""

from __future__ import annotations

from trainer.channels.program.bits import Bits, BitsError, gamma, read_gamma
from trainer.channels.program.program import Ref


class Order:
    """The lines so far: in the order of their definition, and those no line has used."""

    def __init__(self) -> None:
        self.unused: list[int] = []
        self.used: list[int] = []

    def new(self, line: int) -> None:
        self.unused.append(line)

    def ranked(self, several: bool) -> list[int]:
        """Return the lines by rank."""
        if several:
            return self.unused + sorted(self.used, reverse=True)
        return sorted(self.unused + self.used, reverse=True)

    def use(self, line: int) -> None:
        if line in self.unused:
            self.unused.remove(line)
            self.used.append(line)


def write_ref(line: int, order: Order, *, several: bool) -> str:
    """Write a reference: nothing where there is only one line to refer to."""
    ranked = order.ranked(several)
    if several:
        order.use(line)
    return gamma(ranked.index(line)) if len(ranked) > 1 else ""


def read_ref(bits: Bits, order: Order, *, several: bool) -> Ref:
    ranked = order.ranked(several)
    rank = read_gamma(bits) if len(ranked) > 1 else 0
    if rank >= len(ranked):
        raise BitsError(f"a reference to no line, before bit {bits.place}")
    if several:
        order.use(ranked[rank])
    return Ref(ranked[rank])
