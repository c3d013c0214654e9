"""Requests drawn from a service's own description, by schemathesis: what it finds, in its words.

Load it by path: `tests/` is not a package. Both services' tests use it.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# What a schema cannot say (a prompt longer than the context, a program without a test) is refused with
# 422 although the schema allows it: all other checks of schemathesis hold.
LEFT_OUT = "positive_data_acceptance"


def findings(url: str, scratch: Path, *, examples: int = 10, token: str | None = None) -> str:
    """Fuzz every route of /openapi.json; return what was found, "" when there is nothing.

    url      the running service
    scratch  an empty folder for what schemathesis writes
    """
    command = [
        sys.executable, "-m", "schemathesis.cli", "run", f"{url}/openapi.json", "--checks", "all",
        "--exclude-checks", LEFT_OUT, "--max-examples", str(examples), "--seed", "1", "--no-color",
        "--request-timeout", "120", "--generation-database", "none", "--no-shrink",
        *(["--header", f"Authorization: Bearer {token}"] if token else []),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=600, check=False)
    return "" if done.returncode == 0 else f"{done.stdout[-6000:]}{done.stderr[-2000:]}"
