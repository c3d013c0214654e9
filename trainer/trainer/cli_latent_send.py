"""`psuedoptimal latent send|decode`: from a task to a latent message file, and from there to the answer."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from trainer.config import ConfigError
from trainer.config_latent import LatentConfig
from trainer.given import request, stdin_lines
from trainer.measure.folder import own_settings
from trainer.runs import Run

DEFAULT_FILE = Path("message.safetensors")
PRECISIONS = ("fp32", "fp16", "int8", "int4")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the two parts of the way."""
    parts = parser.add_subparsers(dest="part", required=True, metavar="{send,decode}")
    shape = argparse.RawDescriptionHelpFormatter
    send = parts.add_parser(
        "send", help="the student reads a task and writes a message file", formatter_class=shape
    )
    send.add_argument("run", type=Path, metavar="RUN", help="a run folder of `train latent`")
    send.add_argument("--task", required=True, help="what the student reads; - reads it from stdin")
    send.add_argument(
        "--signature", help="the line the function starts with, for tasks of the starter's form"
    )
    send.add_argument("--precision", choices=PRECISIONS, default="fp32", help="of the numbers [fp32]")
    send.add_argument("--decode", action="store_true", help="have the teacher answer at once")
    decode = parts.add_parser("decode", help="the teacher answers a message file", formatter_class=shape)
    decode.add_argument("run", type=Path, metavar="RUN", help="the run whose teacher reads it")
    for part in (send, decode):
        part.add_argument("-o", "--file", type=Path, default=DEFAULT_FILE, help=f"[{DEFAULT_FILE}]")
        part.add_argument("--beside-task", metavar="TEXT", help="let the teacher read the task too")
        part.add_argument("--decoder-url", "--decoder_url", action="append", metavar="URL",
                          help="else one is started")  # fmt: skip
        part.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.epilog = send.epilog = (
        "example, with a run of `psuedoptimal demo latent`:\n"
        "  psuedoptimal latent send runs/demo-latent-*-seed1 --decode \\\n"
        '      --task "Write a function to find the sum of the odd numbers from 1 to n." \\\n'
        '      --signature "def total(n):"'
    )
    decode.epilog = (
        "example, behind `psuedoptimal latent send`:\n  psuedoptimal latent decode runs/demo-latent-*-seed1"
    )


def command(args: argparse.Namespace) -> int:
    """Send or decode. Returns 0."""
    from trainer.channels.text.student import quiet_libraries
    from trainer.cli_latent_train import MAY_CHANGE, located

    quiet_libraries()
    flags = {"decoder_url": args.decoder_url} if args.decoder_url else {}
    config = own_settings(LatentConfig, Run.open(args.run).folder, flags, variables=MAY_CHANGE)
    with (
        tempfile.TemporaryDirectory(prefix="psuedoptimal-") as logs,
        located(config, Path(logs), judged=False) as here,
    ):
        from trainer.channels.latent.teacher import open_teacher

        teacher = open_teacher(here)
        if args.part == "send":
            _send(args, here, teacher)
        if args.part == "decode" or args.decode:
            print(_answer(args, here, teacher))
    return 0


def _send(args: argparse.Namespace, config: LatentConfig, teacher: Any) -> None:
    import torch

    from shared.wire_latents import Turn
    from trainer.channels.latent.batches import padded
    from trainer.channels.latent.loading import trained_speaker
    from trainer.channels.latent.message_file import Letter, write_letter
    from trainer.channels.latent.quantise import bits_per_message
    from trainer.channels.latent.teacher import read_marks
    from trainer.tasks.conversations import Conversation

    card = teacher.card()
    speaker = trained_speaker(config, Run.open(args.run).best, read_marks(config, teacher))
    text = "".join(stdin_lines()) if args.task == "-" else args.task
    if args.signature:
        text = f"Task: {text.strip()}\nSignature: {args.signature.strip()}\nEncode (minimal):"
    asked = Conversation("sent", (request(Turn, "--task: ", role="user", content=text),))
    ids, mask = padded([speaker.contexts.ids(asked)], 0)
    with torch.inference_mode():
        spoken = speaker.student(ids.to(speaker.device), mask.to(speaker.device))
    latents = spoken.latents.float().cpu().clone()
    marks = [mark.detach().float().cpu().clone() for mark in (spoken.bop, spoken.eop)]
    letter = Letter(latents, marks[0], marks[1], card.name, card.weights_sha256 or "")
    size = write_letter(args.file, letter, args.precision)
    bits = bits_per_message(latents.shape[1], latents.shape[2], args.precision)
    figures = {
        "file": str(args.file), "vectors": latents.shape[1], "width": latents.shape[2], "bits": bits,
        "bytes": size,
    }  # fmt: skip
    said = f"{args.file}: {figures['vectors']} x {figures['width']}, {bits} bits, {size} bytes"
    print(json.dumps(figures) if args.json else said, file=sys.stdout if args.json else sys.stderr)


def _answer(args: argparse.Namespace, config: LatentConfig, teacher: Any) -> str:
    from shared.wire_latents import Turn
    from trainer.channels.latent.message_file import read_letter
    from trainer.channels.latent.vectors import to_wire

    letter, card = read_letter(args.file), teacher.card()
    if letter.weights_sha256 and card.weights_sha256 and letter.weights_sha256 != card.weights_sha256:
        raise ConfigError(f"{args.file}: was made for {letter.teacher!r}, this teacher is {card.name!r}")
    layout, conversations = "blind", None
    if args.beside_task is not None:
        layout = "chat" if config.layout == "blind" else config.layout
        conversations = [[request(Turn, "--beside-task: ", role="user", content=args.beside_task)]]
    (found,) = teacher.decode(
        to_wire(letter.latents), conversations, layout=layout, bop=to_wire(letter.bop),
        eop=to_wire(letter.eop), max_new_tokens=config.max_program_tokens,
    )  # fmt: skip
    return str(found.text)
