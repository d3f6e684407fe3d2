"""The sentence for a chosen folder without pictures: where the pictures probably are."""

from pathlib import Path

from .decode import supported_suffixes
from .listing import Listing, count_pictures, in_words, list_folder, name_some, split_name

DEPTH = 3
MOST_FOLDERS = 500
LEVELS = {1: "one level", 2: "two levels", 3: "three levels"}


def explain_no_pictures(root: Path, listing: Listing, noted: list[str]) -> str:
    """Say what is wrong with `root` and which folder to choose instead.

    listing: what lies in `root`. noted: what was already found out about its folders.
    """
    below = _folders_with_pictures(root)
    if below:
        return f"dataset.folder: no pictures in {root} itself; {_choose_below(root, below)}"
    above = root.resolve().parent
    if count_pictures(above):
        count = in_words(count_pictures(above))
        return f"dataset.folder: no pictures in {root}; the one above holds {count}: choose {above}"
    kinds = " ".join(supported_suffixes())
    others = sorted({path.suffix.lower() for path in listing.other_pictures})
    parts = [f"dataset.folder: no pictures in {root}", f"supported kinds are {kinds}"]
    if others:
        parts.append(f"convert the {' '.join(others)} files to one of them")
    return "; ".join([*parts, *noted[:3]])


def _choose_below(root: Path, below: list[Path]) -> str:
    """`below` lie all on one level. A kohya folder is best used through its parent."""
    first = below[0]
    levels = len(first.relative_to(root).parts)
    names = name_some([str(path.relative_to(root)) for path in below])
    found = f"found pictures {LEVELS[levels]} below, in {names}"
    named = split_name(first.name)
    if named is not None and named[0] == 0:
        return f"{found}, whose 0 means that they are never seen: rename it to 1_{named[1]}"
    if named is not None:
        return f"{found}: choose {first.parent}"
    if levels == 1:
        return f"{found}: choose {first}, or rename it to 10_{first.name}"
    if split_name(first.parent.name) is not None:
        return f"{found}: move them up into {first.parent.name}, or choose {first}"
    return f"{found}: choose {first}"


def _folders_with_pictures(root: Path) -> list[Path]:
    """The folders of the first level below `root` that has any; links aren't followed."""
    level, looked = [root], 0
    for _ in range(DEPTH):
        children = [child for folder in level for child in _children(folder)]
        found = [child for child in children if count_pictures(child)]
        looked += len(children)
        if found or looked > MOST_FOLDERS:
            return found
        level = children
    return []


def _children(path: Path) -> list[Path]:
    try:
        return [child for child in list_folder(path).folders if not child.is_symlink()]
    except OSError:
        return []
