"""Which folders of pictures a chosen folder means, in kohya's `N_name` convention."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import DatasetError
from ..events import Finding
from .folder_hints import explain_no_pictures
from .listing import (
    NAME,
    Listing,
    count_pictures,
    in_words,
    legible,
    list_folder,
    name_some,
    note,
    split_name,
)

MANY_REPEATS = 500


@dataclass(frozen=True, slots=True)
class ConceptFolder:
    """A folder whose pictures are seen `repeats` times an epoch and are called `concept`."""

    path: Path
    concept: str
    repeats: int
    listing: Listing


def find_concepts(root: Path) -> tuple[list[ConceptFolder], list[Finding]]:
    """The folders to train on, `root` itself or its `N_name` children, sorted by name.

    Raises DatasetError where there are none, with the folder that the user probably meant.
    """
    listing = _listed_root(root)
    name = root.name if root.name not in {"", ".."} else root.resolve().name
    if listing.pictures and split_name(name) is not None:
        return _itself(root, name, listing)
    children, findings = _children(listing)
    if not children and listing.pictures:
        return _itself(root, name, listing)
    if not children:
        noted = [finding.text for finding in findings]
        raise DatasetError(legible(explain_no_pictures(root, listing, noted)))
    if listing.pictures:
        names = name_some([child.path.name for child in children])
        text = (
            f"{in_words(len(listing.pictures))} beside the folders {names} left out: "
            "move what you want to use into a folder named like 10_name"
        )
        findings.append(_warning(text, root))
    return children, findings


def _listed_root(root: Path) -> Listing:
    shown = legible(root)
    try:
        if root.is_dir():
            return list_folder(root)
        is_file = root.is_file()
    except OSError as error:
        raise DatasetError(
            f"dataset.folder: {shown} can't be opened ({error.strerror}); check its permissions"
        ) from error
    if is_file:
        raise DatasetError(
            f"dataset.folder is the file {shown}; choose the folder that holds it: "
            f"{legible(root.parent)}"
        )
    raise DatasetError(
        f"dataset.folder: there is no folder {shown}; choose the folder that holds the pictures"
    )


def _itself(root: Path, name: str, listing: Listing) -> tuple[list[ConceptFolder], list[Finding]]:
    named = split_name(name)
    repeats, concept = named or (1, name)
    if repeats == 0:
        raise DatasetError(
            f"dataset.folder: the 0 in the name of {legible(root)} means that its pictures are "
            f"never seen; rename it to 1_{legible(concept)}"
        )
    findings = _many_repeats(root, repeats) + _nested(root, listing)
    if named is None and NAME.fullmatch(name):
        text = f"the number in the folder's name {name} is too large for repeats; 1 is used"
        findings.append(_warning(text, root))
    return [ConceptFolder(root, legible(concept), repeats, listing)], findings


def _children(listing: Listing) -> tuple[list[ConceptFolder], list[Finding]]:
    """The `N_name` folders with pictures, and what is wrong with the others."""
    concepts: list[ConceptFolder] = []
    findings: list[Finding] = []
    for child in listing.folders:
        named = split_name(child.name)
        try:
            inside = list_folder(child)
        except OSError as error:
            text = f"the folder {child.name} can't be opened ({error.strerror}) and is left out"
            findings.append(_warning(text, child))
            continue
        if named is not None and named[0] > 0 and inside.pictures:
            concepts.append(ConceptFolder(child, legible(named[1]), named[0], inside))
            findings += _many_repeats(child, named[0]) + _nested(child, inside)
        elif named is not None or inside.pictures:
            findings.append(_warning(_why_left_out(child, named, inside), child))
    return concepts, findings


def _why_left_out(child: Path, named: tuple[int, str] | None, inside: Listing) -> str:
    if not inside.pictures:
        kinds = sorted({path.suffix.lower() for path in inside.other_pictures})
        only = f" (only {' '.join(kinds)})" if kinds else ""
        return f"the folder {child.name} holds no pictures that can be read{only} and is left out"
    text = f"the folder {child.name} with {in_words(len(inside.pictures))} is left out: its "
    if named is not None:
        return text + "repeats are 0"
    if NAME.fullmatch(child.name):
        return text + f"number is too large for repeats; rename it to 10_{child.name} to use it"
    return text + f"name doesn't begin with repeats; rename it to 10_{child.name} to use it"


def _many_repeats(path: Path, repeats: int) -> list[Finding]:
    if repeats <= MANY_REPEATS:
        return []
    text = (
        f"by its folder's name every picture in {path.name} is seen {repeats} times an epoch; "
        f"if that number is a year, name the folder 1_{path.name}"
    )
    return [_warning(text, path)]


def _nested(path: Path, listing: Listing) -> list[Finding]:
    counts = {folder: count_pictures(folder) for folder in listing.folders}
    return [
        _warning(f"{in_words(count)} in {folder.name} below {path.name} left out", folder)
        for folder, count in counts.items()
        if count
    ]


def _warning(text: str, path: Path) -> Finding:
    return note("warning", text, path)
