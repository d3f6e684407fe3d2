"""Whole files or none: what stood there stays, drafts go, the error says what to do."""

import errno
import os
import stat
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from lora_loop.core.errors import FileError
from lora_loop.core.files import atomic
from lora_loop.core.files.atomic import free_path, refuse_existing, write_atomic, write_bytes
from lora_loop.core.files.images import write_png


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    "name",
    ["a.safetensors", "my lora (2).SAFETENSORS", "犬 ü 😀.png", ".hidden", "no suffix", "é" * 100],
)
def test_writes_and_leaves_nothing_else(tmp_path, name):
    path = tmp_path / "new folder" / "дом" / name
    write_bytes(path, b"content")
    assert path.read_bytes() == b"content"
    assert names(path.parent) == [name]


def test_the_name_appears_last(tmp_path):
    path = tmp_path / "a.txt"
    seen = []

    def write(draft: Path) -> None:
        draft.write_bytes(b"x")
        seen.append((draft.parent, path.exists(), draft.suffix))

    write_atomic(path, write)
    assert seen == [(tmp_path, False, ".tmp")]  # the same folder, so the same disk


def test_the_content_is_on_the_disk_before_the_name(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    synced, real = [], os.fsync

    def fsync(descriptor: int) -> None:
        synced.append((path.exists(), stat.S_ISREG(os.fstat(descriptor).st_mode)))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_bytes(path, b"x")
    assert synced[0] == (False, True)


def test_an_existing_file_is_refused_before_any_work(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("mine")

    def write(draft: Path) -> None:
        pytest.fail("must not be asked to write")

    with pytest.raises(FileError, match=r"a\.txt exists and is not overwritten.*a-2\.txt"):
        write_atomic(path, write)
    assert path.read_text() == "mine"
    assert names(tmp_path) == ["a.txt"]


def test_a_broken_link_counts_as_existing(tmp_path):
    path = tmp_path / "a.txt"
    path.symlink_to(tmp_path / "gone")
    with pytest.raises(FileError, match="exists"):
        refuse_existing(path)
    with pytest.raises(FileError, match="exists"):
        write_bytes(path, b"x")
    assert path.is_symlink()
    assert free_path(path).name == "a-2.txt"


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_came_up_meanwhile_wins(tmp_path, monkeypatch, links):
    path = tmp_path / "a.txt"
    if not links:  # FAT has none
        monkeypatch.setattr(atomic.os, "link", refuse_links)

    def write(draft: Path) -> None:
        draft.write_text("ours")
        path.write_text("theirs")

    with pytest.raises(FileError, match="exists"):
        write_atomic(path, write)
    assert path.read_text() == "theirs"
    assert names(tmp_path) == ["a.txt"]


def refuse_links(*paths: object) -> None:
    raise OSError(errno.EPERM, "no links here")


def test_without_links_it_is_a_rename(tmp_path, monkeypatch):
    monkeypatch.setattr(atomic.os, "link", refuse_links)
    write_bytes(tmp_path / "a", b"x")
    assert names(tmp_path) == ["a"]
    assert (tmp_path / "a").read_bytes() == b"x"


def test_overwrite_replaces(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a long old text")
    write_bytes(path, b"new", overwrite=True)
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "disk is full: free some space"),
        (errno.EACCES, "may not write there: choose another folder"),
        (errno.EROFS, "read-only: choose another folder"),
        (errno.EIO, "choose another folder or name"),
    ],
)
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_failing_write_changes_nothing_and_says_what_to_do(tmp_path, number, remedy, overwrite):
    path = tmp_path / "a.txt"
    if overwrite:
        path.write_text("old")

    def write(draft: Path) -> None:
        draft.write_bytes(b"half of")
        raise OSError(number, os.strerror(number))

    with pytest.raises(FileError, match=remedy) as caught:
        write_atomic(path, write, overwrite=overwrite)
    assert str(path) in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert names(tmp_path) == (["a.txt"] if overwrite else [])
    assert not overwrite or path.read_text() == "old"


@pytest.mark.parametrize("error", [FileError("no"), ValueError("no"), KeyboardInterrupt()])
def test_any_other_error_removes_the_draft_too(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(draft: Path) -> None:
        draft.write_bytes(b"half of")
        raise error

    with pytest.raises(type(error)) as caught:
        write_atomic(path, write, overwrite=True)
    assert caught.value is error
    assert names(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_disk_that_is_really_full(tmp_path):
    def write(draft: Path) -> None:
        Path("/dev/full").write_bytes(b"x" * 9)

    with pytest.raises(FileError, match="disk is full"):
        write_atomic(tmp_path / "a", write)
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    def refuse(**where: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(FileError, match="choose another folder"):
        write_bytes(tmp_path / "a", b"x")


def test_names_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(FileError, match="can't be written"):
        write_bytes(tmp_path / "file" / "a", b"x")
    with pytest.raises(FileError, match="choose a shorter one"):
        write_bytes(tmp_path / ("a" * 300), b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileError, match="can't be written"):
        write_bytes(tmp_path / "folder", b"x", overwrite=True)
    assert names(tmp_path) == ["file", "folder"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the mask from /proc")
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664)])
def test_the_mode_follows_the_umask(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        write_bytes(tmp_path / "a", b"x")
        assert os.umask(mask) == mask  # not changed by the call
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_free_path_counts_up(tmp_path):
    path = tmp_path / "my lora v1.2.safetensors"
    assert free_path(path) == path
    path.touch()
    assert free_path(path).name == "my lora v1.2-2.safetensors"
    (tmp_path / "my lora v1.2-2.safetensors").touch()
    (tmp_path / "my lora v1.2-4.safetensors").touch()
    assert free_path(path).name == "my lora v1.2-3.safetensors"


def test_pictures(tmp_path):
    path = tmp_path / "犬.png"
    write_png(path, Image.new("RGB", (3, 2), (1, 2, 3)))
    with pytest.raises(FileError, match="exists"):
        write_png(path, Image.new("RGB", (1, 1)))
    with Image.open(path) as read:
        assert (read.size, read.getpixel((2, 1))) == ((3, 2), (1, 2, 3))
    write_png(path, Image.new("RGB", (1, 1)), overwrite=True)
    with Image.open(path) as read:
        assert read.size == (1, 1)
