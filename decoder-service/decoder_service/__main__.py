"""`python -m decoder_service`: serve until SIGTERM. Exit code 2 for a wrong setting, 1 for a failed load."""

from __future__ import annotations

import signal
import sys

from decoder_service.app import create_app
from decoder_service.settings import DecoderSettings
from shared.errors import RequestRefused
from shared.service import serve


def main() -> int:
    """Read the environment, listen, load, work, drain."""
    settings = DecoderSettings.load()
    app = create_app(settings, stop=lambda: signal.raise_signal(signal.SIGTERM))
    code = serve(app, settings)
    error = app.state.startup_error
    if code == 0 and error is not None:
        print(f"decoder-service has to stop: {error}", file=sys.stderr)
        return 2 if isinstance(error, RequestRefused) else 1
    return code


if __name__ == "__main__":
    raise SystemExit(main())
