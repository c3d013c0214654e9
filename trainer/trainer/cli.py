"""`psuedoptimal VERB`: results on stdout, progress on stderr; exit 0 done, 1 the run failed, 2 a bad request.

Every verb is a module with `add_arguments(parser)` and `command(args) -> int`, imported when it is called, so
that `--help` and the light verbs start without torch.
"""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from types import ModuleType
from typing import NoReturn

from shared.errors import NoAnswer, RequestRefused
from shared.starting import run
from trainer.config import ConfigError
from trainer.pace import with_notes
from trainer.runs import is_disk_full

VERBS = {
    "demo": ("trainer.cli_demo", "the whole experiment, small: services, training, evaluation, report"),
    "train": ("trainer.cli_train", "train a student"),
    "evaluate": ("trainer.measure.evaluate", "measure runs on held-out tasks, beside the baselines"),
    "report": ("trainer.measure.report", "write one self-contained report.html"),
    "sweep": ("trainer.cli_sweep", "train under several settings of the reward, and draw the front"),
    "compare": ("trainer.cli_compare", "pass rate against bits per message, over channels and seeds"),
    "controls": ("trainer.measure.controls_run", "is it a code or a trick? controls, causes, phrasebook"),
    "language": ("trainer.measure.language_run", "what the messages are like, and how much they change"),
    "export": ("trainer.cli_export", "make a folder of a trained student, with its model card"),
    "encode": ("trainer.cli_export", "have an exported student write messages, as text or bits"),
    "collect": ("trainer.cli_latent_collect", "hidden states of plans, for the latent channel"),
    "latent": ("trainer.cli_latent_send", "send a task as a latent message, or decode one"),
    "decode": ("trainer.cli_services", "have the decoder turn messages into programs"),
    "judge": ("trainer.cli_services", "have the sandbox judge a program"),
    "serve": ("trainer.cli_services", "run the decoder, the sandbox, or the lab's page"),
    "tasks": ("trainer.cli_tasks", "show the tasks of a data set"),
    "archive": ("trainer.cli_program", "compress a file into programs, by a trained coder"),
    "unarchive": ("trainer.cli_program", "restore the file from an archive"),
    "doctor": ("trainer.doctor", "what is here, and whether it works"),
    "runpod": ("runpod_deployer.cli", "the lab on rented GPUs: plan, up, status, logs, down"),
}
# A verb's module where its first argument names another channel than the text channel.
CHANNELS = {
    ("demo", "program"): "trainer.cli_program_demo",
    ("train", "program"): "trainer.cli_program_train",
    ("train", "latent"): "trainer.cli_latent_train",
    ("demo", "latent"): "trainer.cli_latent_demo",
    ("evaluate", "latent"): "trainer.measure.latents",
    ("report", "latent"): "trainer.measure.latents_report",
    ("evaluate", "program"): "trainer.measure.programs_evaluate",
    ("report", "program"): "trainer.measure.programs_report",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print(overview())
        return 0 if argv else 2
    if argv[0] == "--version":
        from importlib.metadata import version

        print(f"psuedoptimal {version('psuedoptimal')}")
        return 0
    if argv[0] not in VERBS:
        return _fail(f"{argv[0]}: no such verb; take one of {', '.join(VERBS)}", 2)
    return _guarded(argv)


def console() -> NoReturn:
    """Run the process' command line and end the process."""
    run(main)


def _guarded(argv: list[str]) -> int:
    """Run one verb; turn what a user can act on into one line and an exit code."""
    try:
        verb = import_module(CHANNELS.get((argv[0], *argv[1:2]), VERBS[argv[0]][0]))
        parser = make_parser(argv[0], verb)
        args, unknown = parser.parse_known_args(argv[1:])
        _refuse_unknown(getattr(args, "parser", parser), unknown)
        return int(verb.command(args))
    except (ConfigError, RequestRefused) as error:
        return _fail(with_notes(error), 2)
    except NoAnswer as error:
        return _fail(with_notes(error), 1)
    except KeyboardInterrupt as error:
        return _fail(with_notes(error), 130)
    except BrokenPipeError:
        # The reader of our output has gone, e.g. `| head`; nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if is_disk_full(error):
            return _fail(f"the disk is full, or a quota reached ({with_notes(error)}); make room first", 1)
        if isinstance(error, FileNotFoundError | ModuleNotFoundError):
            return _fail(with_notes(error), 2)
        raise


def _refuse_unknown(parser: argparse.ArgumentParser, unknown: Sequence[str]) -> None:
    """End with exit code 2 if there are arguments the parser does not know, suggesting the nearest.

    parser   the verb's own parser
    unknown  what parse_known_args left over
    """
    if not unknown:
        return
    known = [option for action in parser._actions for option in action.option_strings]
    flag = unknown[0].split("=")[0]
    if not flag.startswith("-"):
        parser.error(
            f"{unknown[0]}: one argument too many, or one that belongs in front of the flags; "
            f"see {parser.prog} --help"
        )
    near = difflib.get_close_matches(flag, known, n=1, cutoff=0.6)
    parser.error(
        f"{flag}: no such flag" + (f"; did you mean {near[0]}?" if near else f"; see {parser.prog} --help")
    )


def make_parser(name: str, verb: ModuleType) -> argparse.ArgumentParser:
    """Return a verb's own parser."""
    parser = argparse.ArgumentParser(
        prog=f"psuedoptimal {name}", description=VERBS[name][1][:1].upper() + VERBS[name][1][1:] + ".",
        allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.set_defaults(verb=name)
    verb.add_arguments(parser)
    return parser


def overview() -> str:
    """Return the help of the whole command."""
    verbs = "\n".join(f"  {name:<10}{what}" for name, (_, what) in VERBS.items())
    return (
        "usage: psuedoptimal VERB ...\n\nA student invents messages, something frozen decodes them, an "
        f"isolated judge says whether it worked.\n\nverbs:\n{verbs}\n\nexample:\n  psuedoptimal demo"
    )


def _fail(text: str, code: int) -> int:
    print(f"psuedoptimal: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    console()
