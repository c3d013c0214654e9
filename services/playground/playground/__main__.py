"""`python -m playground`: serve the page until SIGTERM or Ctrl-C. Exit code 2 for a wrong setting."""

from __future__ import annotations

from playground.app import create_app
from playground.settings import PlaygroundSettings
from shared.service import serve


def main() -> int:
    """Read the environment, listen, answer, drain."""
    settings = PlaygroundSettings.load()
    return serve(create_app(settings), settings)


if __name__ == "__main__":
    raise SystemExit(main())
