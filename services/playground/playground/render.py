"""From values to HTML. Whatever a template prints is escaped, and what would be invisible in it is marked.

In a template `{{ value }}` is safe as an element's text, `{{ value | attr }}` in an attribute, and
`{{ value | field }}` in a form's field, where the characters have to stay what they are. A command that a
person is to type is `{{ "psuedoptimal ..." | here }}`. Only what this
package drew itself (Markup) passes unchanged. A test reads the templates for that.
"""

from __future__ import annotations

import difflib
import math
import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from trainer.measure import escape as visible

HERE = Path(__file__).resolve().parent
NAME = "psuedoptimal"
MESSAGE, PROGRAM, SHORT = 4_000, 20_000, 200
WORD = re.compile(r"\s+|\w+|[^\w\s]+")


def text(value: object, limit: int = MESSAGE) -> Markup:
    """Return any text for an element: entities escaped, hidden characters as markers."""
    return Markup(visible.html(value, limit=limit))


def block(value: object, limit: int = PROGRAM) -> Markup:
    """Return a program: as `text`, but line feeds and tabs are layout."""
    return Markup(visible.html(value, block=True, limit=limit))


def attr(value: object, limit: int = SHORT) -> Markup:
    """Return any text for an attribute."""
    return Markup(visible.attribute(value, limit))


def field(value: object) -> Markup:
    """Return a text for a form's field: nothing but escaped, so that it comes back as it is."""
    return escape(str(value))


def finalize(value: Any) -> Any:
    """What a template prints: Markup as it is, everything else as `text`."""
    return value if isinstance(value, Markup) else text("" if value is None else value)


def figure(value: object, form: str = ".3g") -> str:
    """Return a number as people write it; a dash for what is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return "–"
    return format(value, form).replace("-", "−")


def percent(value: object, digits: int = 1) -> str:
    """Return a share in percent; a dash for what is none."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return "–"
    return f"{100 * value:.{digits}f} %"


def ago(seconds: float, now: float | None = None) -> str:
    """Return how long ago a moment was, e.g. "3 min ago"."""
    passed = max(0.0, (time.time() if now is None else now) - seconds)
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if passed >= size:
            return f"{passed / size:.0f} {unit} ago"
    return "just now" if passed < 10 else f"{passed:.0f} s ago"


def lasting(seconds: object) -> str:
    """Return a length of time, e.g. "1 h 05 min"; a dash for none."""
    if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < 0:
        return "–"
    if seconds >= 3600:
        return f"{seconds // 3600:.0f} h {seconds % 3600 // 60:02.0f} min"
    return f"{seconds // 60:.0f} min {seconds % 60:02.0f} s" if seconds >= 60 else f"{seconds:.0f} s"


def moment(seconds: float) -> str:
    """Return a moment in UTC, for a <time> element."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def dropped(message: str, later: str | None) -> Markup:
    """Return a message with the words that its later version has lost marked as <del>.

    Messages of over 2000 characters are shown unmarked: comparing them would take too long.
    """
    if later is None or len(message) > 2000 or len(later) > 2000:
        return text(message)
    mine, other = WORD.findall(message), WORD.findall(later)
    words = [place for place, word in enumerate(mine) if word.strip()]
    kept = [word for word in other if word.strip()]
    matches = difflib.SequenceMatcher(None, [mine[place] for place in words], kept, False)
    stays = {
        words[i] for match in matches.get_matching_blocks() for i in range(match.a, match.a + match.size)
    }
    parts = [
        text(word) if place in stays or not word.strip() else Markup("<del>{}</del>").format(text(word))
        for place, word in enumerate(mine)
    ]
    return Markup("").join(parts)


def here(command: str) -> str:
    """Return a psuedoptimal command as a shell in this folder finds it: by its bare name only if ours."""
    own = Path(sys.executable).parent / NAME
    found = shutil.which(NAME)
    if not command.startswith(f"{NAME} ") or not own.is_file() or (found and own.samefile(found)):
        return command
    way = own.relative_to(Path.cwd()) if own.is_relative_to(Path.cwd()) else own
    return shlex.quote(str(way)) + command.removeprefix(NAME)


def url(*parts: str, **query: object) -> str:
    """Return a path on this server, every part quoted; a query value that is a list is repeated.

    In a template it is used as {{ url("runs", name) | attr }}.
    """
    path = "/" + "/".join(quote(part, safe="") for part in parts)
    pairs = [
        (name, one)
        for name, value in query.items()
        for one in (value if isinstance(value, list | tuple) else [value])
        if one not in (None, "")
    ]
    asked = "&".join(f"{quote(name)}={quote(str(one), safe='')}" for name, one in pairs)
    return f"{path}?{asked}" if asked else path


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """Return at most `most` items at even distances, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def length_of(row: dict[str, Any]) -> int:
    """Return how long what was sent is: in tokens, else in bits, else in characters."""
    for name in ("tokens", "bits"):
        if isinstance(value := row.get(name), int | float):
            return round(value)
    return len(str(row.get("program", "")))


def make_environment() -> Environment:
    """Return the templates' environment."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=True, finalize=finalize,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "attr": attr, "block": block, "field": field, "length_of": length_of, "here": here,
        "quoted": lambda value: shlex.quote(str(value)),
    }  # fmt: skip
    environment.globals |= {
        "url": url, "figure": figure, "percent": percent, "ago": ago, "moment": moment, "lasting": lasting,
    }  # fmt: skip
    return environment
