"""A host that only answers what the declarations of nodes ask: for writing files about them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class StillHost:
    """A small part of `protocol.Host`: empty folders, and samplers that every version has."""

    def folder(self, kind: Any) -> Path:
        """A folder that is not there."""
        return Path("ComfyUI") / str(kind)

    def lora_names(self) -> list[str]:
        """None."""
        return []

    def model_folders(self, _: str) -> list[Path]:
        """None."""
        return []

    def sampler_names(self) -> list[str]:
        """Those that the examples use."""
        return ["euler", "euler_ancestral", "dpmpp_2m", "ddim"]

    def scheduler_names(self) -> list[str]:
        """Those that the examples use."""
        return ["normal", "karras"]
