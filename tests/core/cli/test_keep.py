"""The commands that make files of files, on a network of two layers."""

from pathlib import Path

import pytest
import torch

from lora_loop.core.cli.main import main
from lora_loop.core.files.adapter_file import read_adapters, write_adapters

FACE = "lora_unet_up_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k"
EARLY = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"


def write(path: Path, size: float) -> Path:
    chance = torch.Generator().manual_seed(1)
    layers = {
        key: {
            "lora_down.weight": torch.randn(4, 768, generator=chance),
            "lora_up.weight": torch.randn(8, 4, generator=chance) * size,
            "alpha": torch.tensor(4.0),
        }
        for key in (FACE, EARLY)
    }
    write_adapters(path, layers, {}, "fp32")
    return path


@pytest.fixture
def network(tmp_path) -> Path:
    return write(tmp_path / "net.safetensors", 1.0)


def run(capsys, *arguments) -> str:
    assert main([str(argument) for argument in arguments]) == 0
    return capsys.readouterr().out


def layers_of(path: Path) -> dict:
    return read_adapters(path).layers


def test_bake_keeps_what_is_on(network, capsys) -> None:
    said = run(capsys, "bake", network, "--weights", "NOFACE")
    assert "net-NOFACE.safetensors: 1 modules" in said
    assert set(layers_of(network.with_name("net-NOFACE.safetensors"))) == {EARLY}
    assert main(["bake", str(network), "--weights", "NOFACES"]) == 2
    assert "did you mean" in capsys.readouterr().err


def test_merge_resize_and_their_errors(network, capsys, tmp_path) -> None:
    other, both = write(tmp_path / "other.safetensors", 0.5), tmp_path / "both.safetensors"
    merge = ["merge", network, other, "--weights", "NOFACE", "--strength", "0.5", "--output", both]
    run(capsys, *merge)
    assert len(layers_of(both)[EARLY]["lora_down.weight"]) == 8
    assert len(layers_of(both)[FACE]["lora_down.weight"]) == 4
    said = run(capsys, "resize", both, "--rank", "8", "--frobenius", "0.5")
    assert "kept in part" in said
    small = layers_of(both.with_name("both-resized.safetensors"))
    assert len(small[EARLY]["lora_down.weight"]) < 4
    for wrong, words in (
        (["merge", network], "--output is missing"),
        (["merge", network, "--weights", "ALL", "--weights", "ALL", "--output", both], "2 times"),
        (["resize", network, "--cumulative", "2"], "between 0 and 1"),
        (["extract", "embedded", "embedded"], "--output is missing"),
    ):
        assert main([str(word) for word in wrong]) == 2
        assert words in capsys.readouterr().err


def test_tags(network, capsys) -> None:
    assert run(capsys, "tag", network, "--weights", "INS").strip() == "<lora:net:1:lbw=INS>"
    vector = "1,1,1,1,1,1,1,1,0,0,0,1,1,1,1,1,1"  # the file has blocks with attention alone
    assert vector in run(capsys, "tag", network, "--weights", "NOFACE")
    inspire = run(capsys, "tag", network, "--weights", "NOFACE", "--dialect", "inspire")
    assert inspire.strip() == "<lora:net:1:1:LBW=1,1,0;>"


def test_presets(capsys, tmp_path) -> None:
    book = ["presets", "--book", tmp_path / "mine.txt"]
    run(capsys, *book, "save", "soft", "ALL=0.5")
    run(capsys, *book, "rename", "soft", "softer")
    said = run(capsys, *book, "list")
    assert "softer: ALL=0.5" in said
    assert "NOFACE" in said
    (tmp_path / "theirs.txt").write_text("mine:" + ",".join("1" * 17) + "\nbad:1,2\n")
    said = run(capsys, *book, "import", tmp_path / "theirs.txt")
    assert "skipped line 2" in said
    run(capsys, *book, "share", tmp_path / "shared.txt", "mine")
    assert (tmp_path / "shared.txt").read_text().startswith("mine:1,1")
    run(capsys, *book, "delete", "softer")
    assert "softer" not in run(capsys, *book, "list")
