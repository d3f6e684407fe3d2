"""Writing files whole or not at all."""

import contextlib
import errno
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import FileError

_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space, or choose a folder on another disk",
    errno.EDQUOT: "your disk quota is used up: free some space, or choose another folder",
    errno.EACCES: "you may not write there: choose another folder",
    errno.EPERM: "you may not write there: choose another folder",
    errno.EROFS: "that disk is read-only: choose another folder",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
}


def write_atomic(path: Path, write: Callable[[Path], None], *, overwrite: bool = False) -> None:
    """Have `write(draft)` fill a temporary file beside `path`, then give it its name.

    The content is on the disk before the name is; on any error the draft is removed and what was at
    `path` before is untouched. Raises FileError: where something is at `path` already and
    `overwrite` is False, for a full disk, a folder that can't be written.
    """
    if not overwrite:
        refuse_existing(path)
    with _explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            prefix=f".{path.name[:40]}.", suffix=".tmp", dir=path.parent
        )
        os.close(handle)
        draft = Path(name)
        try:
            draft.chmod(0o666 & ~_umask())
            write(draft)
            _sync(draft)
            _put_in_place(draft, path, overwrite)
        finally:
            draft.unlink(missing_ok=True)
        _sync_folder(path.parent)


def write_bytes(path: Path, content: bytes, *, overwrite: bool = False) -> None:
    """`write_atomic` for content that is in memory."""

    def write(draft: Path) -> None:
        draft.write_bytes(content)

    write_atomic(path, write, overwrite=overwrite)


def refuse_existing(path: Path) -> None:
    """Raise FileError where something is at `path` already."""
    if os.path.lexists(path):
        raise FileError(
            f"{path} exists and is not overwritten; choose another name, "
            f"such as {free_path(path).name}, or move it away"
        )


def free_path(path: Path, *also: str) -> Path:
    """`path`, or the first of name-2, name-3, ... that is free; also with these suffixes."""
    number, candidate = 2, path
    while any(os.path.lexists(candidate.with_suffix(end)) for end in (path.suffix, *also)):
        candidate = path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1
    return candidate


def _put_in_place(draft: Path, path: Path, overwrite: bool) -> None:
    """Rename; without `overwrite` a file that came up meanwhile wins, where links can be had."""
    if not overwrite:
        with contextlib.suppress(OSError, NotImplementedError):
            os.link(draft, path)
            return
        refuse_existing(path)
    draft.replace(path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """OSErrors of the block, in the user's words."""
    try:
        yield
    except OSError as error:
        remedy = _REMEDIES.get(error.errno or 0, "choose another folder or name")
        raise FileError(f"{path} can't be written ({error.strerror or error}): {remedy}") from error


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the new name itself durable; Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems refuse it
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    """The process's file mask; mkstemp ignores it and makes files private."""
    status = Path("/proc/self/status")
    if status.is_file():  # reading it by setting it would race with other threads
        for line in status.read_text().splitlines():
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
