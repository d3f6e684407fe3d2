"""A checkpoint: names, shapes, metadata, and each tensor on demand."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..errors import CheckpointError
from ..files import safetensors_file
from ..files.tensor_file import FormatError, TensorFile
from .pickle_file import read_pickle

Shapes = Mapping[str, tuple[int, ...]]

_ZIP = b"PK\x03\x04"
_PICKLE = b"\x80"
# first bytes of what is given by mistake -> what it is and what to do
_OTHERS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    (b"<", "is a web page, not a checkpoint: download the file itself"),
    (b"GGUF", "is a GGUF file, not a checkpoint: give the model as .safetensors"),
    (b"\x89PNG", "is a picture, not a checkpoint"),
    (b"\xff\xd8\xff", "is a picture, not a checkpoint"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it and give the file inside"),
    (b"Rar!", "is a RAR archive: unpack it and give the file inside"),
    (b"\x1f\x8b", "is a gzip archive: unpack it and give the file inside"),
)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Where a model's tensors come from; none is read before it is asked for.

    shapes: of every tensor by its name in the file. metadata: the file's own texts. tensor: the
    tensor of a name, on the CPU in its stored dtype, read anew at each call; it raises
    CheckpointError when the file is gone or was written again since. spelled: a name as its source
    has it, for errors, where that has other names. files: all that the tensors come from, without
    those of `vae`, which was given apart.
    """

    path: Path
    shapes: Shapes
    metadata: Mapping[str, str]
    tensor: Callable[[str], Tensor]
    spelled: Callable[[str], str] = str
    files: tuple[Path, ...] = ()
    vae: Checkpoint | None = None


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Open a `.safetensors` or a pickled file (`.ckpt`, `.pt`), told apart by their first bytes.

    Raises CheckpointError when there is no such file, or it is cut off, damaged, of another kind,
    or a pickle with code.
    """
    path = Path(path).expanduser()
    start = _first_bytes(path)
    # a safetensors header may be of any length, so its first bytes may look like another kind's
    if not safetensors_file.is_start(start):
        if start.startswith((_ZIP, _PICKLE)):
            return _open(path, _read_pickle)
        _refuse_others(path, start)
    return _open(path, safetensors_file.read_header)


def _first_bytes(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise CheckpointError(
                f"{path} is a folder; give a single checkpoint file (.safetensors or .ckpt)"
            )
        if not stat.S_ISREG(mode):
            raise CheckpointError(
                f"{path} is not a file; give a checkpoint (.safetensors or .ckpt)"
            )
        with path.open("rb") as file:
            start = file.read(64)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{path} can't be opened ({reason}); check base.checkpoint, which takes a file's path "
            'or "embedded"'
        ) from error
    if not start:
        raise CheckpointError(f"{path} is empty: download or copy it again")
    return start


def _refuse_others(path: Path, start: bytes) -> None:
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n")
    for sign, meaning in _OTHERS:
        if text.startswith(sign):
            raise CheckpointError(f"{path} {meaning}")


def _open(path: Path, read: Callable[[Path], TensorFile]) -> Checkpoint:
    with _explained(path):
        file = read(path)
    shapes = {name: place.shape for name, place in file.places.items()}

    def tensor(name: str) -> Tensor:
        with _explained(path):
            return file.tensor(name)

    return Checkpoint(path, shapes, file.metadata, tensor, files=(path,))


def _read_pickle(path: Path) -> TensorFile:
    if path.suffix.lower() in {".safetensors", ".sft"}:
        raise CheckpointError(
            f"{path} is a pickle or a zip archive under a wrong name: if it is an old checkpoint, "
            "rename it to .ckpt"
        )
    return read_pickle(path)


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """What is wrong with the file, in the user's words."""
    try:
        yield
    except FormatError as error:
        raise CheckpointError(
            f"{path} {error}: download or copy it again, or give another checkpoint"
        ) from error
