"""The processes of one run, joined once, before anything counts or waits for them."""

from __future__ import annotations

import atexit
from datetime import timedelta

import torch.distributed
from accelerate import PartialState


def join(*, cpu: bool, patience: float) -> PartialState:
    """Join the other processes of this run, if there are any, and return what is known of them.

    cpu       whether they compute on CPU: accelerate leaves such processes alone unless it is told
    patience  seconds that they wait for the slowest of them, see `patience_s`
    """
    found = PartialState(cpu=cpu, timeout=timedelta(seconds=patience))
    atexit.register(_leave)
    return found


def _leave() -> None:
    """Leave the group before the interpreter ends: a gloo thread that outlives it aborts the process."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def patience_s(deadline_s: float, tries: int = 2) -> float:
    """Return how long the processes wait for the slowest one, whose services may be away.

    deadline_s  how long one try waits for a service
    tries       how often it is tried, before the run ends for want of an answer
    """
    return max(1800.0, 2 * tries * deadline_s)
