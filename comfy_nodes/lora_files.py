"""Between files and LORA values."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..core.errors import FileError
from .values import Lora


def read_lora(path: Path, name: str = "") -> Lora:
    """A LoRA file as a LORA value, in the precision of the file. Raises FileError."""
    try:
        with safe_open(str(path), framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise FileError(
            f"{path} can't be read as a LoRA ({error}); give a .safetensors file"
        ) from error
    return Lora(
        name=name or metadata.get("ss_output_name") or path.stem,
        path=path,
        tensors=tensors,
        metadata=metadata,
        trigger=metadata.get("modelspec.trigger_phrase", ""),
    )
