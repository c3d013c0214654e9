"""Where and how a model runs here: device, number format, quantization. Chosen by what is there."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any, Literal, NamedTuple

import torch

from decoder_service.settings import DecoderSettings
from shared.errors import InvalidRequest

log = logging.getLogger(__name__)

# Below this 4-bit weights save nothing worth having, and hurt a small model most.
_NF4_FROM_PARAMETERS = 100_000_000

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Placement(NamedTuple):
    """device as torch names it; dtype of the weights, or of the sums where they are quantized; spread: how
    accelerate lays the layers on several devices, None: all on one."""

    device: str
    dtype: torch.dtype
    quantization: Literal["none", "nf4", "int8"]
    spread: str | None = None


def place(settings: DecoderSettings, parameters: int) -> Placement:
    """Choose: NF4 on CUDA, fp16 on MPS, fp32 on the CPU, unless the settings say otherwise.

    parameters   of the model to be loaded
    raises       InvalidRequest when what was asked for does not exist here
    """
    device = _device(settings.device)
    kind = device.partition(":")[0]
    dtype = _DTYPES[settings.dtype] if settings.dtype != "auto" else _usual_dtype(kind)
    return Placement(
        device, dtype, _quantization(settings.quantization, kind, parameters), _spread(settings, device)
    )


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


def _spread(settings: DecoderSettings, device: str) -> str | None:
    """Return the name of accelerate's plan; it takes every GPU there is, so one of them cannot be named."""
    asked = settings.device_map
    if asked == "none":
        return None
    if device == "mps" or ":" in device:
        detail = f"DECODER_DEVICE_MAP={asked!r}: it takes all GPUs, and DECODER_DEVICE is {device!r}"
        hint = "use DECODER_DEVICE=auto, and CUDA_VISIBLE_DEVICES to choose; or DECODER_DEVICE_MAP=none"
        raise InvalidRequest(detail, hint=hint, field="DECODER_DEVICE_MAP")
    return asked


def devices_of(model: Any) -> list[str]:
    """Return the names of the devices a model's layers are on."""
    spread: dict[str, Any] = getattr(model, "hf_device_map", {})
    names = {f"cuda:{place}" if isinstance(place, int) else str(place) for place in spread.values()}
    return sorted(names) if len(names) > 1 else [str(model.device)]


def check_spread(name: str, model: Any) -> None:
    """Refuse a model of which a part is on disk; say so where a part stayed in the host's memory.

    raises   InvalidRequest
    """
    where = [str(place) for place in getattr(model, "hf_device_map", {}).values()]
    if "disk" in where:
        raise InvalidRequest(
            f"DECODER_MODEL={name!r}: the memory of all devices does not hold it, {where.count('disk')} of "
            f"its {len(where)} parts would be read from disk for every token",
            hint="set DECODER_QUANTIZATION=nf4, take a smaller model, or add a device",
            field="DECODER_DEVICE_MAP",
        )
    if "cpu" in where and len(set(where)) > 1:
        log.warning("parts of the model are outside the GPUs", extra={"parts": where.count("cpu")})


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
