"""Which weights these are: where they lie, and the hash that names them whatever the folder is called."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from shared.errors import InvalidRequest

_PACKAGE = Path(__file__).resolve().parents[1]
# Inside the installed package first, then beside it, as in the repository.
_STARTERS = (_PACKAGE / "starter", _PACKAGE.parent / "starter")
_WAY_OUT = (
    "set DECODER_MODEL to a folder in Hugging Face format or to a name on the hub, "
    "or DECODER_ENGINE=echo to run without a model"
)


def find_model(model: str | None) -> str | Path:
    """Return the folder a setting names, or the setting itself where it can only be a name on the hub.

    model    DECODER_MODEL; None is the starter generator
    raises   InvalidRequest when a folder is meant and holds no model
    """
    if model is None:
        for folder in _STARTERS:
            if (folder / "config.json").is_file():
                return folder
        detail = "DECODER_MODEL is unset and the starter generator's weights are not installed here"
        raise InvalidRequest(detail, hint=_WAY_OUT, field="DECODER_MODEL")
    folder = Path(model).expanduser()
    if folder.is_dir():
        if (folder / "config.json").is_file():
            return folder
        detail = f"DECODER_MODEL={model!r}: the folder holds no config.json"
    elif folder.exists():
        detail = f"DECODER_MODEL={model!r}: is a file, not a folder"
    elif model.startswith((".", "/", "~")) or model.count("/") > 1 or "\\" in model:
        detail = f"DECODER_MODEL={model!r}: there is no such folder"
    else:
        return model
    raise InvalidRequest(detail, hint=_WAY_OUT, field="DECODER_MODEL")


def weights_sha256(folder: Path) -> str | None:
    """Hash the names and contents of a folder's weight files; None if it holds none.

    A file is read again only when its size or time of change differs from the last call's.
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        return None
    whole = hashlib.sha256()
    for file in files:
        stat = file.stat()
        whole.update(f"{file.name}\0{_file_sha256(file, stat.st_size, stat.st_mtime_ns)}\n".encode())
    return whole.hexdigest()


@functools.lru_cache(maxsize=1024)
def _file_sha256(file: Path, size: int, mtime_ns: int) -> str:
    """Hash one file; size and time are only there to tell its versions apart."""
    with file.open("rb") as opened:
        digest = hashlib.sha256()
        while block := opened.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
