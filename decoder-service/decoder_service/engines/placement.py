"""Where and how a model runs here: device, number format, quantization. Chosen by what is there."""

from __future__ import annotations

import importlib.util
import logging
from typing import Literal, NamedTuple

import torch

from decoder_service.settings import DecoderSettings
from shared.errors import InvalidRequest

log = logging.getLogger(__name__)

# Below this 4-bit weights save nothing worth having, and hurt a small model most.
_NF4_FROM_PARAMETERS = 100_000_000

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Placement(NamedTuple):
    """device as torch names it; dtype of the weights, or of the sums where they are quantized."""

    device: str
    dtype: torch.dtype
    quantization: Literal["none", "nf4", "int8"]


def place(settings: DecoderSettings, parameters: int) -> Placement:
    """Choose: NF4 on CUDA, fp16 on MPS, fp32 on the CPU, unless the settings say otherwise.

    parameters   of the model to be loaded
    raises       InvalidRequest when what was asked for does not exist here
    """
    device = _device(settings.device)
    kind = device.partition(":")[0]
    dtype = _DTYPES[settings.dtype] if settings.dtype != "auto" else _usual_dtype(kind)
    return Placement(device, dtype, _quantization(settings.quantization, kind, parameters))


def _device(asked: str) -> str:
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if asked == "auto":
        return "cuda" if cuda else "mps" if mps else "cpu"
    kind, _, index = asked.partition(":")
    there = {"cpu": True, "cuda": cuda, "mps": mps}[kind]
    if not there or (index and kind == "cuda" and int(index) >= torch.cuda.device_count()):
        detail = f"DECODER_DEVICE={asked!r}: torch {torch.__version__} finds no such device here"
        raise InvalidRequest(detail, hint="use auto or cpu", field="DECODER_DEVICE")
    return asked


def _usual_dtype(kind: str) -> torch.dtype:
    match kind:
        case "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
        case "mps":
            return torch.float16
        case _:
            return torch.float32


def _quantization(asked: str, kind: str, parameters: int) -> Literal["none", "nf4", "int8"]:
    installed = importlib.util.find_spec("bitsandbytes") is not None
    field = "DECODER_QUANTIZATION"
    match asked:
        case "none":
            return "none"
        case "auto":
            if kind != "cuda" or parameters < _NF4_FROM_PARAMETERS:
                return "none"
            if not installed:
                log.warning(
                    "no 4-bit weights: bitsandbytes is not installed; pip install 'psuedoptimal[cuda]'"
                )
            return "nf4" if installed else "none"
        case "nf4" | "int8" if kind == "mps":
            raise InvalidRequest(f"{field}={asked!r}: not on MPS", hint="use none", field=field)
        case "nf4" | "int8" if not installed:
            hint = "pip install 'psuedoptimal[cuda]', or use none"
            raise InvalidRequest(f"{field}={asked!r}: bitsandbytes is not installed", hint=hint, field=field)
        case "nf4":
            return "nf4"
        case _:
            return "int8"
