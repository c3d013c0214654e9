"""`psuedoptimal tasks`: show the tasks of a data set, as the student and the judge are told them."""

from __future__ import annotations

import argparse
import json

from trainer.config_text import STARTER, Data
from trainer.tasks.sources import SPLITS, load_tasks

SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the data set, the split and how many."""
    parser.add_argument(
        "--dataset", default=STARTER, help="starter, mbpp, a .json/.jsonl file or a hub name [starter]"
    )
    parser.add_argument(
        "--dataset-config", choices=["sanitized", "full"], default="sanitized", help="which MBPP"
    )
    parser.add_argument("--split", choices=SPLITS, default="test", help="[test]")
    parser.add_argument("-n", type=int, default=SHOWN, help=f"how many [{SHOWN}]")
    parser.add_argument(
        "--json", action="store_true", help="one JSON object per line, with tests and reference"
    )
    parser.epilog = "example:\n  psuedoptimal tasks --dataset starter --split test -n 3"


def command(args: argparse.Namespace) -> int:
    """Print the tasks."""
    wanted = {f"{name}_tasks": args.n for name in ("train", "validation", "heldout")}
    data = Data.model_validate({"dataset": args.dataset, "dataset_config": args.dataset_config, **wanted})
    for task in load_tasks(data, args.split):
        if args.json:
            print(json.dumps(task._asdict(), ensure_ascii=False))
        else:
            print(f"{task.task_id}\n  {task.text}\n  {task.signature}\n  {task.tests[0]}\n")
    return 0
