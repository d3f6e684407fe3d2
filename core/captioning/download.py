"""Fetching a captioner from Hugging Face, only when the user says so."""

from pathlib import Path

from ..errors import CheckpointError
from .protocol import reason_of

USUAL = {
    "wd14": "SmilingWolf/wd-vit-tagger-v3",
    "blip": "Salesforce/blip-image-captioning-large",
}


def fetch(repository: str, files: list[str], folder: Path) -> Path:
    """Download files (patterns) of "owner/name" into a folder of its name in `folder`; that folder.

    What is there already is not fetched again, and a broken download goes on. Raises
    CheckpointError where there is no connection, or no such model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import HfHubHTTPError, HFValidationError

    target = folder / repository.rpartition("/")[2]
    # which package it speaks HTTP with depends on its version; its error names that one's base
    transport = tuple(cls for cls in HfHubHTTPError.__mro__ if issubclass(cls, Exception))
    faults = tuple(cls for cls in transport if cls is not Exception)
    try:
        target.mkdir(parents=True, exist_ok=True)
        snapshot_download(repository, allow_patterns=files, local_dir=str(target))
    except (OSError, ValueError, HFValidationError, *faults) as error:
        raise CheckpointError(
            f"{repository} can't be downloaded ({reason_of(error)}): check the name and the "
            "connection (a mirror can be named in the environment variable HF_ENDPOINT), or fetch "
            f"{', '.join(files)} from huggingface.co/{repository} by another way and put them "
            f"into {target}"
        ) from error
    return target
