"""Opening files: what is read, and the one clear error for each that is not a checkpoint."""

import json
import os
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_loop.core.errors import CheckpointError
from lora_loop.core.models.checkpoint import open_checkpoint

TENSORS = {
    "half": torch.randn(3, 5).half(),
    "brain": torch.randn(7).bfloat16(),
    "full": torch.randn(2, 3, 1, 1),
    "count": torch.arange(4),
    "scalar": torch.tensor(2.5),
    "none": torch.empty(0, 3),
    "tiny": torch.randn(9).to(torch.float8_e4m3fn),
}


def write_raw(path: Path, header: object, data: bytes = b"", pad: int = 0) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * pad
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(shape: list[int], start: int, end: int, dtype: object = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.fixture
def good(tmp_path) -> Path:
    path = tmp_path / "ein Modell ü 模型.SAFETENSORS"
    save_file(TENSORS, path, metadata={"title": "ü"})
    return path


def test_tensors_are_those_of_the_safetensors_package(good):
    opened = open_checkpoint(good)
    theirs = load_file(good)
    assert opened.metadata == {"title": "ü"}
    assert opened.shapes == {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    for name, tensor in theirs.items():
        ours = opened.tensor(name)
        assert ours.dtype == tensor.dtype
        assert torch.equal(ours.float(), tensor.float())


def test_writing_to_a_tensor_leaves_the_file_and_other_reads_alone(good):
    before = good.read_bytes()
    opened = open_checkpoint(str(good))
    full = opened.tensor("full").clone()
    opened.tensor("full").zero_()
    assert torch.equal(opened.tensor("full"), full)
    assert good.read_bytes() == before


def test_unaligned_tensors_are_read(tmp_path):
    numbers = torch.randn(1000)
    data = numbers.numpy().tobytes()
    for pad in range(8):
        path = write_raw(tmp_path / f"{pad}.safetensors", {"a": entry([1000], 0, 4000)}, data, pad)
        assert torch.equal(open_checkpoint(path).tensor("a") * 2, numbers * 2)


@pytest.mark.parametrize("kept", [0, 100, -1])
def test_a_file_that_shrinks_after_opening_is_an_error(good, kept):
    opened = open_checkpoint(good)
    os.truncate(good, kept if kept >= 0 else good.stat().st_size - 1)
    for name in ("full", "count", "scalar"):
        with pytest.raises(CheckpointError, match="changed by another program"):
            opened.tensor(name)


def test_a_file_that_is_replaced_after_opening_is_an_error(good):
    opened = open_checkpoint(good)
    other = good.with_name("other")
    save_file({name: tensor + 1 for name, tensor in TENSORS.items() if name != "tiny"}, other)
    other.replace(good)
    with pytest.raises(CheckpointError, match="changed by another program"):
        opened.tensor("full")


def test_a_file_that_is_removed_after_opening_is_an_error(good):
    opened = open_checkpoint(good)
    good.unlink()
    with pytest.raises(CheckpointError, match="can't be read"):
        opened.tensor("full")


def test_a_tensor_that_was_read_outlives_its_file(good):
    """Read, not mapped: of a mapped file that is cut short the process dies."""
    full = open_checkpoint(good).tensor("full")
    os.truncate(good, 0)
    assert torch.equal(full, TENSORS["full"])


@pytest.mark.parametrize("missing", [1, 20, 60])
def test_a_truncated_file_names_the_missing_bytes(good, missing):
    good.write_bytes(good.read_bytes()[:-missing])
    assert f"ends {missing} bytes early: download" in refused(good)


def test_a_file_cut_within_its_header_names_the_missing_bytes(good):
    raw = good.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    good.write_bytes(raw[:100])
    assert f"ends {8 + length - 100} bytes early" in refused(good)


@pytest.mark.parametrize(
    ("start", "meaning"),
    [
        (b"<!DOCTYPE html><html>sign in to download</html>", "web page"),
        (b"\r\n  <html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "git lfs pull"),
        (b"GGUF\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00", "GGUF"),
        (b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "picture"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "unpack it"),
        (b"just some text that is no model", "not a safetensors file"),
        (b"abc", "not a safetensors file"),
        (bytes(64), "not a safetensors file"),
        (b"\xff" * 64, "not a safetensors file"),
        (b"", "empty"),
    ],
)
def test_other_files_are_called_by_their_name(tmp_path, start, meaning):
    path = tmp_path / "model.safetensors"
    path.write_bytes(start)
    assert meaning in refused(path)


def test_a_header_of_absurd_length_allocates_nothing(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes((1 << 62).to_bytes(8, "little") + b"{" + bytes(100))
    assert "not a safetensors file" in refused(path)


@pytest.mark.parametrize(
    ("header", "data", "meaning"),
    [
        (b"{'a': 1}", 0, "not readable"),
        (b'{"a": \xff}', 0, "not readable"),
        (b"{" + b'"a":{' * 20000, 0, "not readable"),
        (b'{"a":{},"a":{}}', 0, "twice"),
        ({"a": {}}, 0, "entry 'a'"),
        ({"a": []}, 0, "entry 'a'"),
        ({"a": entry([1, -1], 0, 4)}, 4, "entry 'a'"),
        ({"a": entry([True], 0, 4)}, 4, "entry 'a'"),
        ({"a": entry([1], 0, 4, "F4")}, 4, "dtype that is not read ('F4'"),
        ({"a": entry([1], 0, 4, ["F32"])}, 4, "dtype that is not read ('a list'"),
        ({"a": entry([2], 0, 4)}, 4, "has 4 bytes"),
        ({"a": entry([10**18], 0, 4)}, 4, "has 4 bytes"),
        ({"a": entry([10**30], 0, 4)}, 4, "31 digits"),
        ({"a": entry([10**18, 10**18], 0, 4)}, 4, "a tensor of shape"),
        ({"a": entry([0, 10**18, 10**18], 0, 0)}, 0, "a tensor of shape"),
        ({"a": entry([1] * 17, 0, 4)}, 4, "a tensor of 17 dimensions"),
        (b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4],"more":NaN}}', 4, "NaN is not JSON"),
        (b'{"\\ud800":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}', 4, "name is not readable"),
        (b'{"__metadata__":{"a":"\\udfff"}}', 0, "name is not readable"),
        ({"a": entry([1], 4, 0)}, 4, "has -4 bytes"),
        ({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}, 4, "begins at byte"),
        ({"a": entry([1], 4, 8)}, 8, "begins at byte"),
        ({"a": entry([1], 0, 4)}, 9, "5 bytes at its end"),
        ({"a": entry([1], 0, 4), "b": entry([1], 4, 8)}, 5, "ends 3 bytes early"),
        ({"__metadata__": {"a": 1}}, 0, "metadata"),
        ({"__metadata__": []}, 0, "metadata"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, header, data, meaning):
    path = write_raw(tmp_path / "model.safetensors", header, bytes(data))
    assert meaning in refused(path)


def test_mutated_headers_end_in_our_own_error_or_a_sound_file(good):
    """Flip, cut and overwrite bytes of the header: no crash, no hang."""
    raw = good.read_bytes()
    length = 8 + int.from_bytes(raw[:8], "little")
    chance = torch.Generator().manual_seed(0)
    refusals = 0
    for _ in range(300):
        at, byte, cut = (int(torch.randint(n, (), generator=chance)) for n in (length, 256, 8))
        end = None if cut else at
        good.write_bytes((raw[:at] + bytes([byte]) + raw[at + 1 :])[:end])
        try:
            opened = open_checkpoint(good)
            total = sum(opened.tensor(name).numel() for name in opened.shapes)
            assert total <= sum(tensor.numel() * 8 for tensor in TENSORS.values())
        except CheckpointError:
            refusals += 1
    assert refusals > 200


def test_missing_folder_and_odd_paths(tmp_path):
    assert "can't be opened" in refused(tmp_path / "no such model.safetensors")
    assert "is a folder" in refused(tmp_path)
    with pytest.raises(CheckpointError, match="can't be opened"):
        open_checkpoint("a\0b")


def test_a_torch_file_under_a_safetensors_name_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    torch.save({"a": torch.zeros(2)}, path)
    assert "rename it to .ckpt" in refused(path)


def test_an_ordinary_zip_is_refused(tmp_path):
    path = tmp_path / "model.ckpt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model.safetensors", "x" * 100)
    refused(path)


def test_a_safetensors_file_under_a_ckpt_name_is_read(good):
    assert len(open_checkpoint(good.rename(good.with_suffix(".ckpt"))).shapes) == len(TENSORS)
