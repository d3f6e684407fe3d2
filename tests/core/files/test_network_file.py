"""Network files: written and read in every precision; what is not whole is refused."""

import hashlib
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

from lora_loop.core.errors import FileError
from lora_loop.core.files.names import kohya_key
from lora_loop.core.files.network_file import read_network, verify_network, write_network

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
KEY = "lora_unet_mid_block_attentions_0_proj_in"


def whole(**changes: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """The tensors of a good file with one module; None takes one out."""
    tensors: dict[str, torch.Tensor | None] = {
        "lora_down.weight": torch.ones(2, 3),
        "lora_up.weight": torch.ones(4, 2),
        "alpha": torch.tensor(1.0),
    }
    tensors.update({name.replace("_weight", ".weight"): t for name, t in changes.items()})
    return {f"{KEY}.{name}": tensor for name, tensor in tensors.items() if tensor is not None}


def saved(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    safetensors.torch.save_file(tensors, path)
    return path


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_round_trip(tmp_path, modules, precision):
    path = tmp_path / "犬 lora.SAFETENSORS"
    written = write_network(path, modules, {"ss_seed": "7"}, precision)
    read = read_network(path)
    assert read.precision == precision
    assert set(read.modules) == set(modules)
    for key, (down, up, alpha) in modules.items():
        read_down, read_up, read_alpha = read.modules[key]
        assert torch.equal(read_down, down.to(DTYPES[precision]).float())
        assert torch.equal(read_up, up.to(DTYPES[precision]).float())
        assert read_alpha == alpha
        assert read_down.dtype == read_up.dtype == torch.float32
    assert (written.path, written.modules, written.bytes) == (path, 3, path.stat().st_size)
    assert read.metadata["ss_seed"] == "7"


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_what_other_programs_see(tmp_path, modules, precision):
    path = tmp_path / "a.safetensors"
    write_network(path, modules, {}, precision)
    tensors = safetensors.torch.load_file(path)
    assert len(tensors) == 9
    assert {tensor.dtype for tensor in tensors.values()} == {DTYPES[precision]}
    assert tensors[f"{KEY}.lora_down.weight"].shape == (3, 4, 1, 1)
    assert tensors[f"{KEY}.lora_up.weight"].shape == (6, 3, 1, 1)
    assert tensors[f"{KEY}.alpha"].shape == ()
    assert tensors["lora_unet_mid_block_resnets_0_conv1.lora_down.weight"].shape == (1, 4, 3, 3)


def test_hashes_are_those_of_the_file(tmp_path, modules):
    path = tmp_path / "a.safetensors"
    written = write_network(path, modules, {"ss_seed": "7"})
    content = path.read_bytes()
    tensors = content[8 + int.from_bytes(content[:8], "little") :]
    assert written.sshs_model_hash == hashlib.sha256(tensors).hexdigest()
    with safe_open(str(path), framework="pt") as file:
        assert file.metadata() == {
            "ss_seed": "7",
            "sshs_model_hash": written.sshs_model_hash,
            "sshs_legacy_hash": "e3b0c442",
        }


def test_equal_arguments_make_equal_bytes(tmp_path, modules):
    write_network(tmp_path / "a", modules, {"x": "1", "y": "2"})
    backwards = dict(reversed(modules.items()))
    write_network(tmp_path / "b", backwards, {"y": "2", "x": "1"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_what_was_read_can_be_written_again(tmp_path, modules):
    write_network(tmp_path / "a", modules, {"ss_seed": "7"})
    read = read_network(tmp_path / "a")
    write_network(tmp_path / "b", read.modules, read.metadata, read.precision)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_stable_diffusion_1_at_rank_1(tmp_path, sd15_layers):
    modules = {}
    for path, (inputs, outputs, conv) in sd15_layers.items():
        kernel = (1, 1) if conv else ()
        up = torch.full((outputs, 1, *kernel), 0.5)
        modules[kohya_key(path)] = (torch.ones(1, inputs, *kernel), up, 1.0)
    written = write_network(tmp_path / "a", modules, {})
    content = (tmp_path / "a").read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    assert written.bytes == header + 9 * (1 << 20) // 8 + 264 * 2
    with safe_open(str(tmp_path / "a"), framework="pt") as file:
        blob = safetensors.torch.save({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        legacy = file.metadata()["sshs_legacy_hash"]
    assert legacy == hashlib.sha256(blob[0x100000:0x110000]).hexdigest()[:8]


@pytest.mark.parametrize("factor", [0, 1])
@pytest.mark.parametrize("value", [70_000.0, float("nan"), float("-inf")])
def test_numbers_that_fp16_cannot_hold_name_their_key(tmp_path, modules, factor, value):
    modules[KEY][factor][0, 0] = value
    suffix = ("lora_down", "lora_up")[factor]
    with pytest.raises(FileError, match=rf"{KEY}\.{suffix}\.weight.*not finite in fp16.*bf16"):
        write_network(tmp_path / "a", modules, {})
    assert list(tmp_path.iterdir()) == []


def test_bf16_holds_what_fp16_cannot(tmp_path, modules):
    modules[KEY][0][0, 0] = 70_000.0
    write_network(tmp_path / "a", modules, {}, "bf16")
    assert float(read_network(tmp_path / "a").modules[KEY][0][0, 0]) == 70_144.0  # 137 x 2 ** 9


@pytest.mark.parametrize(
    ("alpha", "precision", "kept"),
    [
        (1.5, "fp16", torch.float16),
        (0.3, "fp16", torch.float16),  # off by 2e-4 of it
        (100_000.0, "fp16", torch.float32),  # infinite in fp16
        (1e-9, "fp16", torch.float32),  # 0 in fp16
        (7e-8, "fp16", torch.float32),  # 6e-8 in fp16
        (0.3, "bf16", torch.float32),  # off by 2.6e-3 of it
        (1e-9, "bf16", torch.float32),  # off by 3.7e-3 of it
        (0.0, "fp16", torch.float16),
        (-2.0, "bf16", torch.bfloat16),
    ],
)
def test_an_alpha_is_kept_as_it_is(tmp_path, alpha, precision, kept):
    modules = {
        KEY: (torch.ones(1, 2), torch.ones(2, 1), alpha),
        "lora_te_x": (torch.ones(1, 2), torch.ones(2, 1), 1.0),
    }
    path = write_network(tmp_path / "a", modules, {}, precision).path
    tensors = safetensors.torch.load_file(path)
    assert tensors[f"{KEY}.alpha"].dtype == kept
    assert {t.dtype for key, t in tensors.items() if "weight" in key} == {DTYPES[precision]}
    assert read_network(path).modules[KEY][2] == pytest.approx(alpha, rel=1e-3, abs=0)


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), 1e39, 1e-50])
def test_an_alpha_that_fp32_cannot_hold(tmp_path, alpha):
    modules = {KEY: (torch.ones(1, 2), torch.ones(2, 1), alpha)}
    with pytest.raises(FileError, match=rf"{KEY}\.alpha is .*network\.alpha"):
        write_network(tmp_path / "a", modules, {}, "fp32")


@pytest.mark.parametrize("silent", [0, 1, 2])
def test_a_network_that_changes_nothing_is_refused(tmp_path, modules, silent):
    for key, parts in modules.items():
        rest = [*parts]
        rest[silent] = parts[silent] * 0
        modules[key] = tuple(rest)
    with pytest.raises(FileError, match="changes nothing"):
        write_network(tmp_path / "a", modules, {})
    with pytest.raises(FileError, match="changes nothing"):
        write_network(tmp_path / "a", {}, {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("factor", [0, 1])
def test_a_module_that_fp16_would_silence_is_kept_in_fp32(tmp_path, modules, factor):
    modules[KEY][factor].fill_(1e-9)  # 0 in fp16
    path = write_network(tmp_path / "a", modules, {}).path
    kinds = {key: t.dtype for key, t in safetensors.torch.load_file(path).items()}
    wide = {key for key, kind in kinds.items() if kind == torch.float32}
    assert wide == {f"{KEY}.lora_down.weight", f"{KEY}.lora_up.weight"}
    read = read_network(path)
    assert all(torch.equal(read.modules[KEY][n], modules[KEY][n]) for n in (0, 1))
    assert read.precision == "fp16"  # what most of it is stored in
    write_network(tmp_path / "b", read.modules, read.metadata, read.precision)
    assert (tmp_path / "b").read_bytes() == path.read_bytes()


def test_one_module_that_changes_something_is_enough(tmp_path, modules):
    modules[KEY][1].zero_()
    assert write_network(tmp_path / "a", modules, {}).modules == 3


def test_an_existing_file_stays(tmp_path, modules):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"mine")
    with pytest.raises(FileError, match=r"exists.*a-2\.safetensors"):
        write_network(path, modules, {})
    assert path.read_bytes() == b"mine"
    write_network(path, modules, {}, overwrite=True)
    assert len(read_network(path).modules) == 3


def test_a_failed_check_leaves_the_old_file(tmp_path, modules):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"mine")
    seen = []

    def check(draft: Path) -> None:
        seen.append(set(read_network(draft).modules))
        raise FileError("not what was trained")

    with pytest.raises(FileError, match="not what was trained"):
        write_network(path, modules, {}, overwrite=True, check=check)
    assert seen == [set(modules)]  # the draft is whole when it is checked
    assert path.read_bytes() == b"mine"
    assert list(tmp_path.iterdir()) == [path]


def test_verify_finds_a_changed_number_and_a_missing_key(tmp_path):
    path = saved(tmp_path / "a", whole())
    verify_network(path, whole())
    with pytest.raises(FileError, match=rf"{KEY}\.lora_up\.weight differs"):
        verify_network(path, whole(lora_up_weight=torch.full((4, 2), 1.001)))
    with pytest.raises(FileError, match="0 keys missing, 1 too many"):
        verify_network(path, whole(alpha=None))
    with pytest.raises(FileError, match="1 keys missing, 0 too many"):
        verify_network(path, {**whole(), "more": torch.ones(1)})


def test_a_cut_off_file_is_refused_wherever_it_ends(tmp_path, modules):
    write_network(tmp_path / "good", modules, {"ss_seed": "7"})
    content = (tmp_path / "good").read_bytes()
    for end in [*range(0, len(content), 37), len(content) - 1]:
        path = tmp_path / "cut.safetensors"
        path.write_bytes(content[:end])
        with pytest.raises(FileError, match=r"cut\.safetensors (ends|is).*download or copy it"):
            read_network(path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00" * 100,
        b"\xff" * 100,
        b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
        b"PK\x03\x04" + b"archive/data.pkl" * 9,
        b"\x08\x00\x00\x00\x00\x00\x00\x00not json",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    ],
)
def test_other_kinds_of_files_are_refused(tmp_path, content):
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(content)
    with pytest.raises(FileError, match=r"wrong\.safetensors"):
        read_network(path)


def test_no_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(FileError, match=r"gone\.safetensors can't be read \(No such file"):
        read_network(tmp_path / "gone.safetensors")
    with pytest.raises(FileError, match=r"is a folder.*give another LoRA's"):
        read_network(tmp_path)


def test_a_checkpoint_is_not_a_lora(tmp_path):
    name = "model.diffusion_model.input_blocks.0.0.weight"
    path = saved(tmp_path / "sd.safetensors", {name: torch.ones(2)})
    with pytest.raises(FileError, match=f"is not a LoRA.*{name}"):
        read_network(path)
    saved(path, {})
    with pytest.raises(FileError, match=r"is not a LoRA.*nothing"):
        read_network(path)


@pytest.mark.parametrize("other", ["dora_scale", "lora_mid.weight", "hada_w1_a", "diff"])
def test_other_kinds_of_adapters_are_refused(tmp_path, other):
    path = saved(tmp_path / "a", {**whole(), f"{KEY}.{other}": torch.ones(2, 2)})
    with pytest.raises(FileError, match=other):
        read_network(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {**whole(), "lora_te_x.lora_up.weight": torch.ones(2, 2)},
        {**whole(), "lora_te_x.alpha": torch.tensor(1.0)},
        {**whole(), "lora_te_x.lora_down.weight": torch.ones(2, 2)},
    ],
    ids=["up", "alpha", "down"],
)
def test_an_orphan_is_refused_by_name(tmp_path, tensors):
    with pytest.raises(FileError, match=r"is damaged.*lora_te_x"):
        read_network(saved(tmp_path / "a", tensors))


@pytest.mark.parametrize(
    "changes",
    [
        {"lora_up_weight": torch.ones(4, 3)},
        {"lora_up_weight": torch.ones(0, 2)},
        {"lora_up_weight": torch.ones(4, 2, 3, 3)},
        {"lora_down_weight": torch.ones(2, 3, 3)},
        {"lora_up_weight": torch.ones(8)},
        {"lora_down_weight": torch.ones(6)},
        {"lora_down_weight": torch.full((2, 3), float("nan"))},
        {"lora_up_weight": torch.full((4, 2), float("inf"))},
        {"alpha": torch.tensor(float("nan"))},
        {"alpha": torch.ones(2)},
        {"alpha": torch.tensor(1e300, dtype=torch.float64)},
        {"alpha": torch.ones(0)},
        {"lora_down_weight": torch.ones(0, 3), "lora_up_weight": torch.ones(4, 0)},
    ],
)
def test_factors_that_cannot_be(tmp_path, changes):
    with pytest.raises(FileError, match=f"is damaged.*{KEY}"):
        read_network(saved(tmp_path / "a", whole(**changes)))


@pytest.mark.parametrize("name", ["lora_down_weight", "lora_up_weight"])
def test_factors_of_whole_numbers_are_not_taken_for_plain_ones(tmp_path, name):
    path = saved(
        tmp_path / "a", whole(**{name: whole()[f"{KEY}.{name.replace('_w', '.w')}"].char()})
    )
    with pytest.raises(FileError, match=rf"{KEY}.*quantised"):
        read_network(path)


def test_an_alpha_that_is_a_whole_number(tmp_path):
    read = read_network(saved(tmp_path / "a", whole(alpha=torch.tensor(8))))
    assert read.modules[KEY][2] == 8.0


def test_without_alpha_the_scale_is_1(tmp_path):
    read = read_network(saved(tmp_path / "a", whole(alpha=None)))
    assert read.modules[KEY][2] == 2.0  # the rank


def test_an_alpha_of_one_element(tmp_path):
    read = read_network(saved(tmp_path / "a", whole(alpha=torch.tensor([0.5]))))
    assert read.modules[KEY][2] == 0.5


@pytest.mark.skipif(not hasattr(torch, "float8_e4m3fn"), reason="a torch without 8-bit floats")
def test_factors_of_8_bits_are_read(tmp_path):
    eighths = {key: tensor.to(torch.float8_e4m3fn) for key, tensor in whole().items()}
    down, up, alpha = read_network(saved(tmp_path / "a", eighths)).modules[KEY]
    assert torch.equal(down, torch.ones(2, 3))
    assert torch.equal(up, torch.ones(4, 2))
    assert alpha == 1.0
