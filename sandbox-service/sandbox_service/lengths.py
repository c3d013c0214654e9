"""Which runs take long, as far as the last one with the same calls tells."""

from __future__ import annotations

from collections import OrderedDict

from sandbox_service.run import Run

LONG_S = 0.25
_REMEMBERED = 4096


class Lengths:
    """Remembers the calls whose last run was long. Programs are not looked at: those of one task differ.

    A run without calls tells nothing of the next one.
    """

    def __init__(self, long_s: float = LONG_S) -> None:
        self.long_s = long_s
        self._long: OrderedDict[int, None] = OrderedDict()

    def is_long(self, run: Run) -> bool:
        """Whether the last run with these calls was long."""
        return bool(self._long) and _key(run) in self._long

    def took(self, run: Run, seconds: float) -> None:
        """Note how long a run had its lane."""
        if seconds >= self.long_s and run.calls:
            self._long[_key(run)] = None
            if len(self._long) > _REMEMBERED:
                self._long.popitem(last=False)
        elif self._long:
            self._long.pop(_key(run), None)


def _key(run: Run) -> int:
    """Return a hash of the calls, which keeps no text alive. Two runs with the same cost only an order."""
    return hash((run.setup, run.calls))
