"""Our bytes against the safetensors library's own."""

import hashlib
import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from lora_loop.core.files.serialise import header_bytes, legacy_hash, tensor_hash, write_file


def mixed() -> dict[str, torch.Tensor]:
    chance = torch.Generator().manual_seed(2)
    return {
        "b": torch.randn(3, 5, generator=chance),
        "a": torch.randn(2, generator=chance).half(),
        "z.alpha": torch.tensor(0.25),
        "c": torch.randn(4, 1, generator=chance, dtype=torch.float64),
        '名前 "quoted" \\ ü': torch.randn(7, generator=chance),
    }


def written(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    write_file(path, tensors, metadata)
    return path.read_bytes()


def body(content: bytes) -> bytes:
    return content[8 + int.from_bytes(content[:8], "little") :]


@pytest.mark.parametrize(
    "metadata",
    [{}, {"ss_seed": "7"}, {"ключ": '犬 "q" \\ / \n\t\b\f\x00\x1f\x7f\u2028 😀 {"a": 1}'}],
)
@pytest.mark.parametrize("size", range(1, 9))
def test_bytes_are_the_librarys(tmp_path, metadata, size):
    tensors = {**mixed(), "n" * size: torch.ones(size)}  # all paddings of the header
    expected = safetensors.torch.save(tensors, metadata or None)
    assert written(tmp_path / "a", tensors, metadata) == expected


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64]
)
def test_every_dtype_is_the_librarys(tmp_path, dtype):
    tensors = {"x": torch.arange(6).reshape(2, 3).to(dtype), "s": torch.tensor(3).to(dtype)}
    assert written(tmp_path / "a", tensors, {}) == safetensors.torch.save(tensors)


def test_no_numbers_and_no_tensors(tmp_path):
    none = {"x": torch.zeros(0, 3), "y": torch.ones(2)}
    assert written(tmp_path / "a", none, {}) == safetensors.torch.save(none)
    assert tensor_hash({"x": torch.zeros(0)}) == hashlib.sha256(b"").hexdigest()
    write_file(tmp_path / "b", {}, {"only": "metadata"})
    with safe_open(str(tmp_path / "b"), framework="pt") as file:
        assert file.metadata() == {"only": "metadata"}


def test_views_are_written_as_seen(tmp_path):
    whole = torch.arange(24.0).reshape(4, 6)
    views = {"t": whole.T, "s": whole[:, ::2], "e": whole[:1].expand(3, 6)}
    path = tmp_path / "a"
    write_file(path, views, {})
    read = safetensors.torch.load_file(path)
    assert all(torch.equal(read[name], view) for name, view in views.items())


def test_trained_tensors_are_written_without_their_graph(tmp_path):
    tensor = torch.ones(2, requires_grad=True)
    assert body(written(tmp_path / "a", {"x": tensor}, {})) == b"\x00\x00\x80\x3f" * 2


def test_the_library_reads_it(tmp_path):
    metadata = {"ss_tag_frequency": '{"1_犬": {"dog": 2}}', "empty": ""}
    write_file(tmp_path / "a b.safetensors", mixed(), metadata)
    with safe_open(str(tmp_path / "a b.safetensors"), framework="pt") as file:
        assert file.metadata() == metadata
        assert set(file.keys()) == set(mixed())
        for name, tensor in mixed().items():
            assert file.get_tensor(name).dtype == tensor.dtype
            assert torch.equal(file.get_tensor(name), tensor)


def test_the_order_of_dicts_changes_nothing(tmp_path):
    metadata = {f"ss_{n}": str(n) for n in range(50)}
    backwards = dict(reversed(metadata.items()))
    shuffled = dict(reversed(mixed().items()))
    first = written(tmp_path / "a", mixed(), metadata)
    assert written(tmp_path / "b", shuffled, backwards) == first
    assert tensor_hash(shuffled) == tensor_hash(mixed())


def test_tensor_hash_is_that_of_the_bytes_after_the_header(tmp_path):
    content = written(tmp_path / "a", mixed(), {"ss_seed": "1"})
    assert tensor_hash(mixed()) == hashlib.sha256(body(content)).hexdigest()
    other = written(tmp_path / "b", mixed(), {"ss_seed": "2", "more": "x" * 999})
    assert body(other) == body(content)


@pytest.mark.parametrize("numbers", [(262_144, 9_000, 30_000), (301_000,), (100,) * 2800])
def test_legacy_hash_of_a_large_file(numbers):
    chance = torch.Generator().manual_seed(4)
    tensors = {f"t{i:04}": torch.randn(n, generator=chance) for i, n in enumerate(numbers)}
    blob = safetensors.torch.save(tensors, {"ss_seed": "1"})
    assert len(blob) > 0x110000
    expected = hashlib.sha256(blob[0x100000:0x110000]).hexdigest()[:8]
    assert legacy_hash(tensors, {"ss_seed": "1", "modelspec.title": "not part of it"}) == expected


def test_legacy_hash_of_a_file_that_ends_inside_the_window():
    tensors = {"x": torch.arange(0x100400 // 4).float()}
    blob = safetensors.torch.save(tensors)
    assert 0x100000 < len(blob) < 0x110000
    assert legacy_hash(tensors, {}) == hashlib.sha256(blob[0x100000:]).hexdigest()[:8]


def test_legacy_hash_of_a_small_file_is_that_of_nothing():
    assert legacy_hash(mixed(), {"ss_seed": "1"}) == "e3b0c442"


def test_size_of_all_networks_of_stable_diffusion_1(sd15_layers):
    """lora_files.md 4e: 1.125 MiB of fp16 factors for each rank, and a 2-byte alpha each."""
    for rank in (1, 32, 128):
        tensors = {}
        for path, (inputs, outputs, conv) in sd15_layers.items():
            kernel = (1, 1) if conv else ()
            kind = {"dtype": torch.float16, "device": "meta"}
            tensors[f"{path}.down"] = torch.empty(rank, inputs, *kernel, **kind)
            tensors[f"{path}.up"] = torch.empty(outputs, rank, *kernel, **kind)
            tensors[f"{path}.alpha"] = torch.empty((), **kind)
        header = header_bytes(tensors, {})
        assert len(header) == 8 + int.from_bytes(header[:8], "little")
        entries = json.loads(header[8:]).values()
        end = max(entry["data_offsets"][1] for entry in entries)
        assert end == rank * 9 * (1 << 20) // 8 + 264 * 2
