"""What to do when the device's memory runs out: say no without losing the process, and try with less."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from decoder_service.engines.engine import Decoding, DeviceMemory, EngineLost
from shared.errors import Overloaded

R = TypeVar("R")

# torch's CPU allocator raises a plain RuntimeError; its words differ by platform.
_CPU_WORDS = ("can't allocate memory", "cannot allocate memory", "not enough memory")


def fits(run: Callable[[], R], device: torch.device) -> R | None:
    """Return what `run` returns, or None if the device's memory did not hold it.

    raises   EngineLost when the device failed in a way that only a new process can mend
    """
    try:
        return run()
    except torch.AcceleratorError as error:
        # A CUDA context does not survive an illegal access or an assertion on the device.
        raise EngineLost(f"the device failed: {error}", hint="restart the decoder") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
    # Out of the handler, whose traceback would keep the failed batch's tensors alive.
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that an allocation failed, on whatever device."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _CPU_WORDS)


def device_memory(device: torch.device) -> DeviceMemory | None:
    """Return what torch holds on all GPUs of this process; None where the model is on none.

    From any thread: torch's allocator keeps these figures itself.
    """
    if device.type != "cuda":
        return None
    every = range(torch.cuda.device_count())
    return DeviceMemory(
        allocated_bytes=sum(torch.cuda.memory_allocated(one) for one in every),
        reserved_bytes=sum(torch.cuda.memory_reserved(one) for one in every),
    )


def too_small(what: str, decoding: Decoding | None = None) -> Overloaded:
    """Return the error of one row that does not fit alone."""
    new = f" with max_new_tokens={decoding.max_new_tokens}" if decoding else ""
    lower = "lower max_new_tokens" if decoding else "send a shorter one"
    return Overloaded(
        f"the device's memory does not hold {what}{new}",
        hint=f"{lower}, set DECODER_QUANTIZATION=nf4, or free the device",
        retry_after_s=10,
    )
