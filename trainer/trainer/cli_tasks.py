"""`psuedoptimal tasks`: show the tasks of a data set, as the student and the judge are told them."""

from __future__ import annotations

import argparse
import json

from trainer.cli_verbs import positive
from trainer.config import validated
from trainer.config_text import STARTER, Data
from trainer.tasks.sources import SPLITS, load_tasks

SHOWN = 5
ALL = "all"
EPILOG = """\
--json prints what --dataset reads: one object a line with task_id, text, reference (code), tests (assert
statements), and, if need be, signature, entry_point (both else read off the reference), setup (code the
tests need), family (what figures are grouped by) and split (train, validation or test: in every row or in
none). MBPP's own files are read too.

examples:
  psuedoptimal tasks --dataset starter --split test -n 3
  psuedoptimal tasks --split all -n 100 --json > own.jsonl
  psuedoptimal tasks --dataset own.jsonl"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the data set, the split and how many."""
    parser.add_argument(
        "--dataset", default=STARTER, help="starter, mbpp, a .json/.jsonl file or a hub name [starter]"
    )
    parser.add_argument(
        "--dataset-config", choices=["sanitized", "full"], default="sanitized", help="which MBPP"
    )
    parser.add_argument("--split", choices=[*SPLITS, ALL], default="test", help="[test]")
    parser.add_argument("-n", type=positive, default=SHOWN, help=f"how many of a split [{SHOWN}]")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object per line, as --dataset reads them"
    )
    parser.epilog = EPILOG


def command(args: argparse.Namespace) -> int:
    """Print the tasks."""
    wanted = {f"{name}_tasks": args.n for name in ("train", "validation", "heldout")}
    data = validated(Data, {"dataset": args.dataset, "dataset_config": args.dataset_config, **wanted})
    splits = SPLITS if args.split == ALL else [args.split]
    # All of them before the first line: one that holds no tasks must not end a file half-way.
    found = {split: load_tasks(data, split) for split in splits}
    for split, tasks in found.items():
        for task in tasks:
            if args.json:
                print(json.dumps({**task._asdict(), "split": split}, ensure_ascii=False))
            else:
                print(f"{task.task_id}\n  {task.text}\n  {task.signature}\n  {task.tests[0]}\n")
    return 0
