"""`python -m sandbox_service`: serve until SIGTERM. Exit code 2 for a wrong setting or a missing jail."""

from __future__ import annotations

from sandbox_service.app import create_app
from sandbox_service.settings import SandboxSettings
from shared.service import serve
from shared.starting import run


def main() -> int:
    """Read the environment, listen, try the jail, work, drain."""
    settings = SandboxSettings.load()
    return serve(create_app(settings), settings)


if __name__ == "__main__":
    run(main)
