"""`psuedoptimal runpod plan|up|status|logs|down`: the lab on rented GPUs.

Reads RUNPOD_API_KEY (or RUNPOD_API_KEY_FILE) and RUNPOD_API_BASE_URL. What is made is written down in
$XDG_STATE_HOME/psuedoptimal/runpod/PROJECT.jsonl, beside the home folder's other state.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import httpx
from pydantic import ValidationError

from runpod_deployer import plan
from runpod_deployer.api import URL, Runpod
from runpod_deployer.deploy import Deployer
from runpod_deployer.deployment import Deployment
from runpod_deployer.journal import Journal
from runpod_deployer.tracking import Row
from shared.errors import InvalidRequest

COMMAND = ["train", "text", "--config", "psuedoptimal.yaml"]
_EPILOG = """examples:
  export RUNPOD_API_KEY=...                # from the console; it may write pods, endpoints and volumes
  psuedoptimal runpod plan --image docker.io/me/psuedoptimal-pod:1 --secret HF_TOKEN=hf_token
  psuedoptimal runpod up   --image docker.io/me/psuedoptimal-pod:1 --secret HF_TOKEN=hf_token --max-hours 10
  psuedoptimal runpod logs --follow
  psuedoptimal runpod down                 # the runs' volume stays; `down --volumes` deletes it"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the five verbs."""
    parser.epilog = _EPILOG
    verbs = parser.add_subparsers(dest="action", required=True, metavar="plan|up|status|logs|down")
    for action, what in _ACTIONS.items():
        verb = verbs.add_parser(
            action, help=what, description=what[:1].upper() + what[1:] + ".", allow_abbrev=False,
            epilog=f"example:\n  psuedoptimal runpod {_EXAMPLES[action]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        verb.set_defaults(parser=verb)
        verb.add_argument("--project", default="lab", help="part of every name made; one record each [lab]")
        match action:
            case "plan" | "up":
                _add_settings(verb)
                verb.add_argument("--json", action="store_true", help="print the result as JSON")
            case "status":
                verb.add_argument("--json", action="store_true", help="print the table as JSON")
            case "logs":
                verb.add_argument(
                    "role", nargs="?", default="trainer", choices=["trainer", "decoder", "sandbox"]
                )
                verb.add_argument("--follow", "-f", action="store_true", help="go on until Ctrl-C")
                verb.add_argument(
                    "--tail", type=int, default=100,
                    help="lines of the past, at most 5000; without --follow it ends after so many, after 3 s "
                    "without one, or after 15 s [100]",
                )  # fmt: skip
            case "down":
                verb.add_argument(
                    "--volumes", action="store_true", help="also the volume, with the runs on it"
                )
                verb.add_argument(
                    "--orphans", action="store_true",
                    help="also what has this project's names but is not in the record here",
                )  # fmt: skip


_ACTIONS = {
    "plan": "print what `up` would ask for and what it costs; makes nothing",
    "up": "make what is missing; called again, it makes nothing twice",
    "status": "show what there is, what it costs, and what is not in the record",
    "logs": "print a role's log",
    "down": "delete everything but the volume",
}
_EXAMPLES = {
    "plan": "plan --image docker.io/me/psuedoptimal-pod:1 --secret HF_TOKEN=hf_token",
    "up": "up --image docker.io/me/psuedoptimal-pod:1 --secret HF_TOKEN=hf_token --max-hours 10",
    "status": "status",
    "logs": "logs --follow",
    "down": "down",
}


def _add_settings(parser: argparse.ArgumentParser) -> None:
    """Add one flag per setting of a deployment, and the trainer's command at the end."""
    for name, field in Deployment.model_fields.items():
        flag, about = f"--{name.replace('_', '-')}", (field.description or "").replace("%", "%%")
        if name in ("project", "command"):
            continue
        if name in ("env", "secrets"):
            flag, metavar = {"env": ("--env", "NAME=VALUE"), "secrets": ("--secret", "NAME=SECRET")}[name]
            parser.add_argument(
                flag,
                dest=name,
                action="append",
                default=[],
                metavar=metavar,
                help=f"{about}; may be repeated",
            )
            continue
        many, choices = isinstance(field.get_default(), list), get_args(field.annotation)
        shown = "" if field.is_required() or field.default in (None, []) else f" [{field.default}]"
        literal = choices and all(isinstance(choice, str | int) for choice in choices)
        metavar = "{" + ",".join(map(str, choices)) + "}" if literal else name.upper()
        parser.add_argument(
            flag, dest=name, default=argparse.SUPPRESS, nargs="+" if many else None, metavar=metavar,
            required=field.is_required(), help=about + shown,
        )  # fmt: skip
    parser.add_argument(
        "command", nargs="*", metavar="-- VERB ...",
        help=f"arguments of `psuedoptimal` in the trainer's pod [{' '.join(COMMAND)} --name PROJECT]",
    )  # fmt: skip


def command(args: argparse.Namespace) -> int:
    """Do what the verb says. Returns 0; `down` and `status` return 1 while something cannot be told."""
    journal = Journal(_record(args.project), args.project)
    with _account() as api:
        deployer = Deployer(api, journal, say=lambda line: print(line, file=sys.stderr))
        match args.action:
            case "plan":
                planned = plan.make(api, _wanted(args))
                print(json.dumps(planned.as_json(), indent=2) if args.json else planned.as_text())
                return 0
            case "up":
                deployer.up(_wanted(args))
                return _show(deployer.status(), as_json=args.json)
            case "status":
                return _show(deployer.status(), as_json=args.json)
            case "logs":
                return _logs(api, journal, args)
            case _:
                return _show(deployer.down(volumes=args.volumes, orphans=args.orphans), as_json=False)


def _wanted(args: argparse.Namespace) -> Deployment:
    given: dict[str, Any] = {
        name: value for name, value in vars(args).items() if name in Deployment.model_fields
    }
    for name in ("env", "secrets"):
        given[name] = dict(_pair(name, text) for text in given[name])
    given["command"] = given["command"] or [*COMMAND, "--name", args.project]
    try:
        return Deployment.model_validate(given)
    except ValidationError as error:
        raise InvalidRequest("; ".join(_fault(item) for item in error.errors(include_url=False))) from error


def _pair(name: str, text: str) -> tuple[str, str]:
    key, found, value = text.partition("=")
    if not found or not key:
        raise InvalidRequest(f"--{name.removesuffix('s')} {text[:40]!r}: expected NAME=VALUE", field=name)
    return key, value


def _fault(item: Any) -> str:
    """Return one validation error as a line; a variable's value is not repeated, it may be a secret."""
    message = str(item["msg"]).removeprefix("Value error, ")
    if not item["loc"]:
        return message
    where = "--" + str(item["loc"][0]).replace("_", "-")
    return f"{where}: {message}" if item["loc"][0] == "env" else f"{where}={item['input']!r}: {message}"


def _record(project: str) -> Path:
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "psuedoptimal" / "runpod" / f"{project}.jsonl"


@contextmanager
def _account() -> Iterator[Runpod]:
    key = os.environ.get("RUNPOD_API_KEY", "").strip()
    file = os.environ.get("RUNPOD_API_KEY_FILE")
    if not key and file:
        try:
            key = Path(file).read_text(encoding="utf-8").strip()
        except OSError as error:
            raise InvalidRequest(f"RUNPOD_API_KEY_FILE={file}: {error.strerror}") from error
    if not key or not all("!" <= letter <= "~" for letter in key):
        raise InvalidRequest(
            "RUNPOD_API_KEY: not set, or not visible ASCII letters", hint="make a key in RunPod's console"
        )
    url = os.environ.get("RUNPOD_API_BASE_URL") or URL
    parts = httpx.URL(url)
    if parts.scheme != "https" and parts.host not in ("127.0.0.1", "localhost", "::1"):
        raise InvalidRequest(f"RUNPOD_API_BASE_URL={url}: the key would travel in the clear; use https")
    api = Runpod(key, url)
    try:
        yield api
    finally:
        api.close()


def _show(rows: Sequence[Row], *, as_json: bool) -> int:
    """Print the table; 1 if something may exist that nobody has seen yet."""
    if as_json:
        print(json.dumps([row._asdict() for row in rows], indent=1))
    elif not rows:
        print("nothing is there")
    else:
        print(f"{'role':<9}{'kind':<10}{'state':<9}{'status':<14}{'$/h':>6}{'hours':>7}  id and name")
        for row in rows:
            cost = "" if row.cost is None else f"{row.cost:.2f}"
            hours = "" if row.hours is None else f"{row.hours:.1f}"
            what = f"{row.role:<9}{row.kind:<10}{row.state:<9}{row.status:<14}"
            print(f"{what}{cost:>6}{hours:>7}  {row.id} {row.name}")
    states = {row.state for row in rows}
    if "orphan" in states:
        print("orphans are not in the record here: `down --orphans` deletes them", file=sys.stderr)
    if "unclear" in states:
        print("unclear: asked for, but not seen yet; run `status` again in a minute", file=sys.stderr)
    return 1 if "unclear" in states else 0


def _logs(api: Runpod, journal: Journal, args: argparse.Namespace) -> int:
    if not 0 <= args.tail <= 5000:
        raise InvalidRequest(f"--tail {args.tail}: 0 to 5000", field="tail")
    entry = next((entry for entry in journal.of(args.role) if entry.id), None)
    if entry is None or entry.id is None:
        raise InvalidRequest(
            f"{args.role}: there is none in the record of {args.project}", hint="see `status`"
        )
    paths = [f"/pods/{entry.id}/logs"]
    if entry.kind == "endpoint":
        paths = [f"/serverless/{entry.id}/workers/{worker}/logs" for worker in api.workers(entry.id)]
        if args.follow:
            paths = paths[:1]
    for path in paths:
        for line in api.logs(path, tail=args.tail, follow=args.follow):
            print(f"{line.ts} {line.line}", flush=args.follow)
    return 0
