"""Old checkpoints (`.ckpt`, `.pt`): pickles, of which only tensors are taken."""

from __future__ import annotations

import pickle
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError

_NESTS = ("state_dict", "model", "module")  # where savers put the tensors, as deep as they like
# what torch.load raises on files that are damaged in their many ways
_DAMAGE = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError)
_DAMAGE = (*_DAMAGE, AssertionError, OverflowError, MemoryError, OSError, zipfile.BadZipFile)


def read_pickle(path: Path) -> dict[str, Tensor]:
    """Tensors of a pickled checkpoint by name, on the CPU; mapped where the file allows it.

    Nothing in the file is run: a pickle that names anything but tensors and plain values is refused
    with a CheckpointError, and so is a damaged one.
    """
    if tarfile.is_tarfile(path):
        # torch before 2.6 unpickles these without its restrictions (CVE-2025-32434)
        raise CheckpointError(f"{path} is a tar archive; give a checkpoint as .safetensors")
    try:
        found = torch.load(
            str(path), map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path} is a pickle that holds more than tensors, maybe code, or is damaged; "
            "nothing in it was run. Give the same model as .safetensors"
        ) from error
    except _DAMAGE as error:
        reason = str(error).split("\n", maxsplit=1)[0][:200]
        raise CheckpointError(
            f"{path} can't be read as a checkpoint ({reason}): download or copy it again, "
            "or give the same model as .safetensors"
        ) from error
    return _tensors(path, found)


def _tensors(path: Path, found: Any) -> dict[str, Tensor]:
    for _ in range(4):
        inner = next((found[n] for n in _NESTS if isinstance(found, dict) and n in found), None)
        if not isinstance(inner, dict):
            break
        found = inner
    if isinstance(found, dict):
        tensors = {
            name: value.detach()
            for name, value in found.items()
            if isinstance(name, str) and isinstance(value, Tensor)
        }
        if tensors:
            return tensors
    raise CheckpointError(f"{path} holds no named tensors; give a model's checkpoint")
