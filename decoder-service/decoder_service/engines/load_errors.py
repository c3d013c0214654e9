"""Why a model cannot be loaded, and the way out. All of it is a setting to mend: the process ends with 2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from decoder_service.settings import DecoderSettings
from shared.errors import InvalidRequest, RoomError

_MODEL, _REVISION, _QUANTIZATION = "DECODER_MODEL", "DECODER_REVISION", "DECODER_QUANTIZATION"
_SHOWN = 3


@contextmanager
def reading(settings: DecoderSettings, model: str, part: str, field: str = _MODEL) -> Iterator[None]:
    """Turn whatever is raised inside into an error a user can act on.

    model    what is read, as the setting `field` names it
    part     what of it, e.g. "weights"
    raises   InvalidRequest
    """
    try:
        yield
    except RoomError:
        raise
    except Exception as error:
        # The edge of other people's parsers: they raise anything.
        raise load_error(settings, model, part, error, field) from error


def load_error(
    settings: DecoderSettings, model: str, part: str, error: BaseException, field: str = _MODEL
) -> InvalidRequest:
    """Return the error a user can act on, for whatever was raised while a part of a model was read."""
    what = f"{field}={model!r}"
    for cause in _causes(error):
        match cause:
            case GatedRepoError():
                hint = f"accept its terms at https://huggingface.co/{model} and set HF_TOKEN to your token"
                return InvalidRequest(f"{what}: access to it is restricted", hint=hint, field=field)
            case RevisionNotFoundError():
                detail = f"{_REVISION}={settings.revision!r}: {model!r} has no such revision"
                return InvalidRequest(detail, hint="name a branch, tag or commit of it", field=_REVISION)
            case RepositoryNotFoundError():
                hint = "correct the name; a private one needs HF_TOKEN"
                return InvalidRequest(f"{what}: the hub knows no such model", hint=hint, field=field)
            case LocalEntryNotFoundError() | OfflineModeIsEnabled():
                detail = f"{what}: it is not on this machine, and the hub cannot be reached"
                hint = f"connect once, run `hf download {model}` where there is a network, or name a folder"
                return InvalidRequest(detail, hint=hint, field=field)
            case RuntimeError() | MemoryError() if _is_out_of_memory(cause):
                hint = "set DECODER_QUANTIZATION=nf4, take a smaller model, or free the device"
                return InvalidRequest(f"{what}: the device's memory does not hold it", hint=hint, field=field)
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    if settings.quantization in ("nf4", "int8") and "bitsandbytes" in reason.lower():
        detail = f"{_QUANTIZATION}={settings.quantization!r}: {reason[:600]}"
        return InvalidRequest(detail, hint="use none, or another device", field=_QUANTIZATION)
    if "trust_remote_code" in reason:
        detail = f"{what}: its {part} needs code of its own, which is never run here"
        return InvalidRequest(detail, hint="name a model that transformers knows by itself", field=field)
    hint = "mend or fetch its files again, or name another; it must be a causal language model"
    return InvalidRequest(f"{what}: its {part} cannot be loaded: {reason[:600]}", hint=hint, field=field)


def check_complete(model: str, found: Mapping[str, Any]) -> None:
    """Raise InvalidRequest where weights were made up: transformers draws what a checkpoint has not.

    found   from_pretrained's loading info: missing_keys, mismatched_keys, error_msgs
    """
    missing = sorted(found["missing_keys"])
    mismatched = sorted(
        f"{name} {list(there)} for {list(here)}" for name, there, here in found["mismatched_keys"]
    )
    whole = [("lacks", missing), ("have another shape than config.json wants:", mismatched),
             ("cannot be read:", list(found["error_msgs"]))]  # fmt: skip
    for verb, names in whole:
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            subject = "its checkpoint" if names is missing else "its weights"
            raise InvalidRequest(
                f"{_MODEL}={model!r}: {subject} {verb} {', '.join(names[:_SHOWN])}{more}",
                hint="config.json and the weights must be of one model: fetch its files again",
                field=_MODEL,
            )


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


def _is_out_of_memory(error: BaseException) -> bool:
    # Here, not above: engine `remote` reads a tokenizer where torch is not installed.
    from decoder_service.engines.memory import is_out_of_memory

    return is_out_of_memory(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
