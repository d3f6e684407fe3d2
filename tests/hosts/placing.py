"""Where a host that is driven by a test keeps its things."""

from pathlib import Path


def make_folders(folder: Path, repository: Path) -> None:
    """Folders for checkpoints, LoRAs and the host's data, our extension in the latter."""
    for name in ("models", "loras", "data/extensions"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "data/extensions/lora-loop").symlink_to(repository, target_is_directory=True)
