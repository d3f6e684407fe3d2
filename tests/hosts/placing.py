"""Where a host that is driven by a test keeps its things."""

from collections.abc import Mapping
from pathlib import Path


def make_folders(folder: Path, extensions: Mapping[str, Path]) -> None:
    """Folders for checkpoints, LoRAs and the host's data, the extensions in the latter."""
    for name in ("models", "loras", "data/extensions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name, place in extensions.items():
        (folder / "data/extensions" / name).symlink_to(place, target_is_directory=True)
