"""`psuedoptimal demo latent`: hidden states from the starter generator, students over it, controls, a report.

Each student is a run folder of its own: one for each seed, or for each seed and number of vectors. What is
done to it are the verbs themselves, as processes; one decoder and one sandbox serve them all. Two students
are at work at a time, on a core each.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.cli_verbs import (
    Trained,
    closing,
    positive,
    run_verb,
    seeds_of,
    start_verb,
    tell_rest,
    terminated,
)
from trainer.config import ConfigError, resolve
from trainer.config_latent import LatentConfig
from trainer.runs import refuse_inside_run
from trainer.supervise import services

CONFIG = Path("starter-latent.yaml")
SMALL = ("max_steps", "warm_start_steps", "train_tasks", "validation_tasks", "heldout_tasks")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add seeds, numbers of vectors, place and size."""
    add = parser.add_argument
    add("channel", choices=["latent"], help="which experiment")
    add("--seeds", default="1", help="training seeds by comma, e.g. 1,2,3 [1]")
    add("--K", help="a student for each of these numbers of vectors, e.g. 2,4,8 [the settings' K]")
    add("--config", type=Path, default=CONFIG, help=f"settings of the runs [{CONFIG}]")
    add("--runs", type=Path, default=Path("runs"), help="folder of the run folders [runs]")
    for name in SMALL:
        add(f"--{name.replace('_', '-')}", type=int, help=f"in place of the settings' {name}")
    add("--at-once", type=positive, default=2, help="students that train at a time [2]")
    add("--json", action="store_true", help="print the tables as JSON")
    parser.epilog = (
        "examples:\n  psuedoptimal demo latent --seeds 1,2,3\n"
        "  psuedoptimal demo latent --seeds 1,2 --K 1,2,4,8\n"
        "  psuedoptimal demo latent --seeds 1,2,3 --config starter-latent-beside.yaml"
    )


def command(args: argparse.Namespace) -> int:
    """Collect, train every student, measure all of them beside their controls, and write the reports.

    returns  0; the code of the first part that failed; 130 after Ctrl-C
    """
    seeds, flags = seeds_of(args.seeds), _flags(args)
    started, stamp = time.monotonic(), time.strftime("%Y%m%d-%H%M%S")
    place = args.runs / f"demo-latent-{stamp}"
    hidden = place / "hidden"
    config = resolve(LatentConfig, [args.config], {**flags, "hf_hidden_repo": str(hidden)})
    refuse_inside_run(args.runs)
    signal.signal(signal.SIGTERM, terminated)
    students = {
        Path(f"{place}{'' if args.K is None else f'-k{vectors}'}-seed{seed}"): Trained(seed, vectors)
        for vectors in _vectors(args.K, config.K) for seed in seeds
    }  # fmt: skip
    model, settings = config.teacher_model_name_or_path, [f"--{name}={v}" for name, v in flags.items()]
    with services(place / "logs", model, config.decoder_url, config.sandbox_url) as (decoder, sandbox):
        sizes = [f"--{name.replace('_', '-')}={getattr(config, name)}" for name in SMALL[2:]]
        code = run_verb("collect", "hidden", "--output", str(hidden), *sizes, "--decoder-url", decoder[0],
                     quiet=True)  # fmt: skip
        urls = ["--decoder-url", *decoder, "--sandbox-url", *sandbox]
        chains = [
            [
                ["train", "latent", "--config", str(args.config), "--output_dir", str(folder), "--seed",
                 str(seed), "--K", str(vectors), "--hf_hidden_repo", str(hidden), *settings, *urls,
                 "--unsaved", "decoder_url", "sandbox_url"],
                ["evaluate", "latent", str(folder), *(f"--decoder-url={url}" for url in decoder),
                 *(f"--sandbox-url={url}" for url in sandbox)],
            ]
            for folder, (seed, vectors) in students.items()
        ]  # fmt: skip
        code = code or _several(chains, args.at_once)
    folders = list(students)
    if code:
        tell_rest("latent", students, args, settings)
        return code
    code = run_verb("evaluate", "latent", *map(str, folders), "--saved", *(["--json"] if args.json else []))
    code = code or run_verb("report", "latent", *map(str, folders), quiet=args.json)
    if not code:
        closing(folders, time.monotonic() - started)
    return code


def _flags(args: argparse.Namespace) -> dict[str, int]:
    return {name: value for name in SMALL if (value := getattr(args, name)) is not None}


def _vectors(text: str | None, settings: int) -> list[int]:
    """Return the numbers of vectors to train students of. Raises ConfigError."""
    if text is None:
        return [settings]
    found = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if min(found) < 1 or len(set(found)) != len(found):
        raise ConfigError(f"--K {text!r}: give whole numbers from 1 by comma, each once, e.g. 2,4,8")
    return found


def _several(chains: Sequence[Sequence[Sequence[str]]], at_once: int) -> int:
    """Run chains of verbs as processes, some chains at a time; return the first code that is not 0.

    A chain ends with its first verb that fails. After a failure no further verb is begun, and those at work
    are waited for. The tables of evaluations are not shown: that of all of them comes last.
    """
    waiting, code = [list(chain) for chain in chains], 0
    running: dict[subprocess.Popen[bytes], list[Sequence[str]]] = {}

    def begin(chain: list[Sequence[str]]) -> None:
        measures = chain[0][0] == "evaluate"
        running[start_verb(chain[0], quiet=True, silent=measures)] = chain[1:]

    try:
        while running or (waiting and not code):
            while waiting and len(running) < at_once and not code:
                begin(waiting.pop(0))
            for process in [each for each in running if each.poll() is not None]:
                rest = running.pop(process)
                code = code or abs(process.returncode)
                if rest and not code:
                    begin(rest)
            time.sleep(0.1)
    except (KeyboardInterrupt, SystemExit):
        for process in running:
            process.terminate()
        for process in running:
            process.wait()
        raise
    return code
