"""`python -m playground`: serve the page until SIGTERM or Ctrl-C. Exit code 2 for a wrong setting."""

from __future__ import annotations

import sys

from playground.app import create_app
from playground.settings import PlaygroundSettings
from shared.service import serve
from shared.starting import run


def main() -> int:
    """Read the environment, listen, answer, drain."""
    settings = PlaygroundSettings.load()
    if settings.port:
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        print(f"playground: open http://{host}:{settings.port}", file=sys.stderr)
    return serve(create_app(settings), settings)


if __name__ == "__main__":
    run(main)
