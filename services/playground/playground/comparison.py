"""Several runs side by side: what `psuedoptimal compare` says of them, drawn and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from playground.folders import Folders, Remembered, RunCard
from shared.errors import InvalidRequest
from trainer.measure.compare import as_rows, compare, front_rows
from trainer.measure.compare_figure import figure

MOST, PRESELECTED = 24, 6


@dataclass(frozen=True)
class Compared:
    """Runs side by side. points, fronts: tables, the head first; problem: why there are none."""

    runs: list[str]
    drawn: str = ""
    points: list[list[str]] = field(default_factory=list)
    fronts: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problem: str = ""


class Comparisons:
    """Comparisons that were looked at lately; they are worked out again when a run was evaluated again."""

    def __init__(self, folders: Folders) -> None:
        self._folders, self._found = folders, Remembered(16)

    def read(self, names: Sequence[str]) -> Compared:
        """Compare runs by name. Raises NotFound for a name that is none, InvalidRequest for over MOST."""
        runs = list(dict.fromkeys(names))
        if len(runs) > MOST:
            raise InvalidRequest(f"{len(runs)} runs are ticked, the limit is {MOST}", hint="tick fewer")
        version = tuple(self._folders.stamps(name) for name in runs)
        return self._found.get(tuple(runs), version, lambda: self._compare(runs))

    def suggested(self, cards: Sequence[RunCard]) -> list[str]:
        """Return the latest evaluated runs that can stand side by side: of a channel, of the same tasks."""
        chosen: list[str] = []
        tasks: dict[str, object] = {}
        for card in [card for card in cards if card.evaluated][:MOST]:
            about = self._folders.object(card.name, "evaluation.json").get("tasks")
            own = (about.get("sha256"), about.get("split")) if isinstance(about, dict) else None
            if tasks.setdefault(card.channel, own) == own:
                chosen.append(card.name)
        return chosen[:PRESELECTED]

    def _compare(self, runs: list[str]) -> Compared:
        try:
            found = compare([self._folders.measured(name) for name in runs])
            drawn = Markup(figure(found, standalone=False))
            return Compared(runs, drawn, as_rows(found), front_rows(found), found.notes)
        except (ValueError, KeyError, TypeError, OSError) as error:
            # A file of another version may lack what is looked for.
            what = (
                str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
            )
            return Compared(runs, problem=what)
