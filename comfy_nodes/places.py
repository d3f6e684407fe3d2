"""Where nodes may read and write: names that users type become paths below the host's folders."""

from __future__ import annotations

import os
from pathlib import Path

from ..core.errors import DatasetError, FileError
from .protocol import Host

OWN_FOLDER = "lora_loop"
"""Below ComfyUI's output folder: trained networks, resume states, samples and recipes."""


def dataset_folder(host: Host, name: str) -> str:
    """The folder that a user named: relative to ComfyUI's input, or absolute below an allowed root.

    Raises DatasetError for a folder elsewhere: a ComfyUI that listens to a network must not read
    whatever its visitors ask for. A link that lies there was put there by the owner, and counts.
    """
    if not name.strip():
        raise DatasetError(
            f"dataset.folder is empty; give a folder below {host.folder('input')}, such as my_set"
        )
    folder = _straight(host.folder("input") / name.strip())
    roots = [_straight(root) for root in host.dataset_roots()]
    if not any(folder.is_relative_to(root) for root in roots):
        raise DatasetError(
            f"dataset.folder {folder} lies outside of the folders that ComfyUI may read datasets "
            f"from ({', '.join(map(str, roots))}); move it there, or add its parent as "
            "lora_loop_datasets to extra_model_paths.yaml and restart ComfyUI"
        )
    return str(folder)


def _straight(path: Path) -> Path:
    """An absolute path without "..", its links as they are."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve() would follow links


def own_folder(host: Host) -> Path:
    """Our own place below ComfyUI's output folder."""
    return host.folder("output") / OWN_FOLDER


def recipe_path(host: Host, name: str) -> Path:
    """A recipe by its name, below our own folder or ComfyUI's input. Raises FileError."""
    roots = [own_folder(host) / "recipes", host.folder("input"), own_folder(host)]
    for root in roots:
        path = (root / name.strip()).resolve()
        if path.is_relative_to(root.resolve()) and path.is_file():
            return path
    raise FileError(
        f"there is no recipe {name!r}; put the .json file into {roots[0]} or {roots[1]}"
    )


def subfolders(root: Path, depth: int = 2) -> list[str]:
    """The folders below `root`, relative, for a list to choose from."""
    found: list[str] = []
    if depth and root.is_dir():
        for path in sorted(root.iterdir()):
            if path.is_dir() and not path.name.startswith("."):
                below = [f"{path.name}/{name}" for name in subfolders(path, depth - 1)]
                found += [path.name, *below]
    return found
