"""`python -m decoder_service`: serve until SIGTERM.

Exit code 2 for a setting that is wrong or names a model that cannot be loaded, 1 for a failure.
"""

from __future__ import annotations

import signal

from decoder_service.app import create_app
from decoder_service.settings import DecoderSettings
from shared.service import serve
from shared.starting import run


def main() -> int:
    """Read the environment, listen, load, work, drain."""
    settings = DecoderSettings.load()
    app = create_app(settings, stop=lambda: signal.raise_signal(signal.SIGTERM))
    return serve(app, settings)


if __name__ == "__main__":
    run(main)
