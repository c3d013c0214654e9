"""Why a model cannot be loaded, and the way out.

What a setting can mend is an InvalidRequest (the process ends with 2), a broken file or device Broken (1).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from decoder_service.engines.memory import is_out_of_memory
from decoder_service.settings import DecoderSettings
from shared.errors import Broken, InvalidRequest, RoomError

_MODEL, _REVISION, _QUANTIZATION = "DECODER_MODEL", "DECODER_REVISION", "DECODER_QUANTIZATION"


def load_error(settings: DecoderSettings, model: str, error: BaseException) -> RoomError:
    """Return the error a user can act on, for whatever from_pretrained raised.

    model    what was to be loaded, as the settings name it
    """
    what = f"{_MODEL}={model!r}"
    for cause in _causes(error):
        match cause:
            case GatedRepoError():
                hint = f"accept its terms at https://huggingface.co/{model} and set HF_TOKEN to your token"
                return InvalidRequest(f"{what}: access to it is restricted", hint=hint, field=_MODEL)
            case RevisionNotFoundError():
                detail = f"{_REVISION}={settings.revision!r}: {model!r} has no such revision"
                return InvalidRequest(detail, hint="name a branch, tag or commit of it", field=_REVISION)
            case RepositoryNotFoundError():
                hint = "correct the name; a private one needs HF_TOKEN"
                return InvalidRequest(f"{what}: the hub knows no such model", hint=hint, field=_MODEL)
            case LocalEntryNotFoundError() | OfflineModeIsEnabled():
                detail = f"{what}: it is not on this machine, and the hub cannot be reached"
                hint = f"connect once, run `hf download {model}` where there is a network, or name a folder"
                return InvalidRequest(detail, hint=hint, field=_MODEL)
            case torch.AcceleratorError() | RuntimeError() | MemoryError() if is_out_of_memory(cause):
                hint = "set DECODER_QUANTIZATION=nf4 (CUDA), take a smaller model, or free the device"
                return Broken(f"{what}: the device's memory does not hold it", hint=hint, field=_MODEL)
    reason = " ".join(str(error).split())[:600]
    if settings.quantization in ("nf4", "int8") and "bitsandbytes" in reason.lower():
        detail = f"{_QUANTIZATION}={settings.quantization!r}: {reason}"
        return InvalidRequest(detail, hint="use none, or another device", field=_QUANTIZATION)
    hint = "check name, files and memory; offline, a hub model must have been downloaded before"
    return Broken(f"{what} cannot be loaded: {reason}", hint=hint, field=_MODEL)


def check_unquantized(settings: DecoderSettings, found: Any) -> None:
    """Raise InvalidRequest when a quantization is asked for and the checkpoint has one already.

    found   the checkpoint's quantization_config, a dict or an object
    """
    if settings.quantization in ("nf4", "int8"):
        method = (
            found.get("quant_method") if isinstance(found, dict) else getattr(found, "quant_method", None)
        )
        raise InvalidRequest(
            f"{_QUANTIZATION}={settings.quantization!r}: the checkpoint is already quantized ({method})",
            hint="use auto or none for this model, or name the unquantized one",
            field=_QUANTIZATION,
        )


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
