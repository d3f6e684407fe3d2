"""Which folders and files a user may name."""

from dataclasses import replace
from pathlib import Path

from ..core.config import EMBEDDED, Recipe
from ..core.errors import FileError
from .hosts.protocol import Folders


def require_allowed(folders: Folders, what: str, path: str) -> Path:
    """The real place of `path`, links followed; FileError where users may not go there.

    what: the setting or field that names it. Relative paths start at the networks' folder, so that
    they mean the same wherever the program was started.
    """
    if "\0" in path or not path.strip():
        raise FileError(f"{what} is empty or no path; give a folder or file of the server")
    try:
        place = Path(folders.networks, Path(path.strip()).expanduser()).resolve()
    except (OSError, RuntimeError) as error:
        raise FileError(f"{what} {path!r} can't be resolved ({error}); give another one") from error
    if folders.allowed is None:
        return place
    roots = [root.resolve() for root in folders.allowed]
    if not any(place == root or root in place.parents for root in roots):
        raise FileError(
            f"{what} {path!r} lies outside of the folders that this server opens to its users: "
            f"{', '.join(map(str, roots))}; put it there, or ask the server's owner"
        )
    return place


def placed(recipe: Recipe, folders: Folders) -> Recipe:
    """The recipe with every path real and allowed; FileError for one that is not."""
    base = recipe.base
    if base.checkpoint != EMBEDDED:
        checkpoint = require_allowed(folders, "base.checkpoint", base.checkpoint)
        base = replace(base, checkpoint=str(checkpoint))
    dataset = require_allowed(folders, "dataset.folder", recipe.dataset.folder)
    output = require_allowed(folders, "output.folder", recipe.output.folder)
    return replace(
        recipe,
        base=base,
        dataset=replace(recipe.dataset, folder=str(dataset)),
        output=replace(recipe.output, folder=str(output)),
    )


def network_file(folders: Folders, name: str) -> Path:
    """A LoRA file below the networks' folder by the name that lists show; FileError else."""
    root = folders.networks.resolve()
    path = (root / name).resolve()
    if path.suffix != ".safetensors" or root not in path.parents or not path.is_file():
        raise FileError(f"there is no network file {name!r} in {root}; refresh the list")
    return path


def free_name(folder: Path, name: str) -> str:
    """`name`, or the first of name-2, name-3, ... that no network or stopped training has."""
    number, candidate = 2, name
    while any((folder / f"{candidate}{end}").exists() for end in (".safetensors", ".resume-state")):
        candidate = f"{name}-{number}"
        number += 1
    return candidate
