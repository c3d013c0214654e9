"""What has to come from the model hub, looked at before anything is started: is it here, can it be fetched?

Loads nothing and reads no weights. What it does not know to be missing it lets pass: the loader says more.
"""

from __future__ import annotations

import functools
from pathlib import Path

import httpx

from trainer.config import ConfigError

# A hub that does not answer within this is away; its own client would try for half a minute.
REACH_S = 5.0
OFFLINE = "it is not on this machine, and the model hub cannot be reached"


def require_model(setting: str, name: str) -> None:
    """Raise ConfigError, with the way out, if a model is neither a folder nor to be had from the hub.

    setting  the setting that names it, for the error
    name     a folder or a hub name
    """
    if Path(name).is_dir():
        return
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    what = f"{setting}={name!r}"
    try:
        if isinstance(try_to_load_from_cache(name, "config.json"), str):
            return
        if not reachable():
            raise ConfigError(
                f"{what}: {OFFLINE}; name a folder that holds it, or take the channel's starter (`--config "
                "starter-text.yaml`, starter-program.yaml or starter-latent.yaml), whose models come with "
                "this program"
            )
        hf_hub_download(name, "config.json")
    except HFValidationError as error:
        raise ConfigError(f"{what}: neither a folder nor a hub name (OWNER/NAME)") from error
    except GatedRepoError as error:
        raise ConfigError(
            f"{what}: access is restricted; accept its terms on the hub, set HF_TOKEN"
        ) from error
    except RepositoryNotFoundError as error:
        raise ConfigError(f"{what}: the hub knows no such model; a private one needs HF_TOKEN") from error
    except (HfHubHTTPError, LocalEntryNotFoundError):
        return


def require_dataset(name: str) -> None:
    """Raise ConfigError, with the way out, if a data set can neither be fetched nor was fetched before."""
    if reachable():
        return
    import datasets.config

    # `datasets` keeps OWNER/NAME in OWNER___NAME.
    fetched = Path(datasets.config.HF_DATASETS_CACHE) / name.replace("/", "___")
    if not fetched.is_dir():
        raise ConfigError(
            f"dataset={name!r}: {OFFLINE}; give a copy of it by `--dataset FILE.jsonl`, or take "
            "tasks that are generated, by `--dataset starter` or, to train, `--config starter-text.yaml`"
        )


@functools.cache
def reachable() -> bool:
    """Whether the hub answers at all; asked once in a process."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx.head(constants.ENDPOINT, timeout=REACH_S, follow_redirects=False)
    except httpx.HTTPError:
        return False
    return True
