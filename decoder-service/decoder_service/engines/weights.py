"""Which weights these are: where they lie, and the hash that names them whatever the folder is called."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from pathlib import Path

from shared.errors import InvalidRequest

log = logging.getLogger(__name__)

# Read in a tenth of a second: not worth remembering.
_LARGE_BYTES = 64 * 1024 * 1024
_BESIDE_WEIGHTS = frozenset({".json", ".txt", ".model", ".jinja"})
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
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


def weights_sha256(folder: Path, remembered: Path | None = None) -> str | None:
    """Hash the names and contents of a folder's weight files; None if it holds none.

    remembered   JSON file of large files' hashes. A file is read again only when its size or a time of
                 change differs from what stands there; whoever can write that file can forge a hash
    """
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not files:
        return None
    known = _read(remembered)
    before = dict(known)
    whole = hashlib.sha256()
    for file in files:
        stat = file.stat()
        # The time of the inode's change tells a file that was replaced under its old time.
        mark = f"{file.resolve()}\0{stat.st_size}\0{stat.st_mtime_ns}\0{stat.st_ctime_ns}"
        if stat.st_size < _LARGE_BYTES:
            whole.update(f"{file.name}\0{_file_sha256(file)}\n".encode())
            continue
        if mark not in known:
            known = {name: known[name] for name in known if name.partition("\0")[0] != str(file.resolve())}
            known[mark] = _file_sha256(file)
        whole.update(f"{file.name}\0{known[mark]}\n".encode())
    if remembered is not None and known != before:
        _write(remembered, known)
    return whole.hexdigest()


def files_sha256(folder: Path) -> str:
    """Hash what lies beside a model's weights: its configuration, its tokenizer, its chat template."""
    whole = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in _BESIDE_WEIGHTS and file.is_file():
            whole.update(f"{file.name}\0{_file_sha256(file)}\n".encode("utf-8", "surrogateescape"))
    return whole.hexdigest()


def _file_sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read(remembered: Path | None) -> dict[str, str]:
    """Return the hashes already known; none where the file is missing or broken."""
    try:
        found = json.loads(remembered.read_text(encoding="utf-8")) if remembered else {}
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {mark: value for mark, value in found.items() if isinstance(value, str) and _SHA256.match(value)}


def _write(remembered: Path, known: dict[str, str]) -> None:
    """Replace the file as a whole; a disk that is full or read-only costs a reading next time, no more."""
    try:
        remembered.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=remembered.parent, delete=False) as new:
            json.dump(known, new)
        Path(new.name).replace(remembered)
    except OSError as error:
        log.info("hashes of weights are not remembered", extra={"reason": str(error)})
