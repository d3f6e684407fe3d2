"""Grids over axes, grids drawn again, and analyses, as typed on a command line."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_loop.core.cli.main import main
from lora_loop.core.config.recipe import (
    BaseConfig,
    DatasetConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    Recipe,
    TrainingConfig,
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, thin_checkpoint, pictures) -> Path:
    """A network of two steps on the thin checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = Recipe(
        base=BaseConfig(checkpoint=str(thin_checkpoint)),
        dataset=DatasetConfig(folder=str(pictures)),
        network=NetworkConfig(rank=2, alpha=2.0),
        optimizer=OptimizerConfig(unet_lr=1e-2, text_encoder_lr=1e-2),
        training=TrainingConfig(max_steps=2, batch_size=2),
        output=OutputConfig(folder=str(folder), name="momo", precision="fp32"),
    )
    recipe.save(folder / "recipe.json")
    assert main(["train", str(folder / "recipe.json")]) == 0
    return folder / "momo.safetensors"


@pytest.fixture
def network(trained, tmp_path) -> Path:
    path = tmp_path / "momo.safetensors"
    path.write_bytes(trained.read_bytes())
    return path


@pytest.fixture
def typed(thin_checkpoint):
    """Run a command on the thin checkpoint with few steps."""

    def run(command: str, *words: object) -> int:
        base = ["--checkpoint", str(thin_checkpoint), "--steps", "1"]
        return main([command, *map(str, words), *base])

    return run


def test_a_grid_over_axes_and_the_same_again(network, typed, tmp_path, capsys):
    axes = ["--x", "values", "0", "1", "--y", "blocks", "IN04-IN08", "NOT BASE"]
    output = tmp_path / "grid.png"
    assert typed(
        "preview", network, "--prompt", "momo", *axes, "--z", "seed", "3-4", "--html",
        "--output", output, "--batch-size", "2",
    ) == 0  # fmt: skip
    page = output.with_suffix(".html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    again = tmp_path / "again.png"
    assert typed("preview", "--repeat", output, "--output", again) == 0
    assert np.array_equal(np.asarray(Image.open(output)), np.asarray(Image.open(again)))
    assert Image.open(output).info["lora_loop"] == Image.open(again).info["lora_loop"]
    assert "warning" not in capsys.readouterr().out
    (tmp_path / "moved").mkdir()
    moved = network.rename(tmp_path / "moved" / "momo2.safetensors")
    assert typed("preview", "--repeat", output, "--output", again) == 2
    assert "momo" in capsys.readouterr().err
    assert typed("preview", moved, "--repeat", output, "--output", again, "--overwrite") == 0


def test_epochs_side_by_side(network, typed, tmp_path):
    other = tmp_path / "epoch1.safetensors"
    other.write_bytes(network.read_bytes())
    output = tmp_path / "grid.png"
    assert typed(
        "preview", network, "--prompt", "momo", "--x", "network", network, other,
        "--no-compare", "--output", output,
    ) == 0  # fmt: skip
    again = tmp_path / "again.png"
    assert typed("preview", "--repeat", output, "--output", again) == 0
    assert np.array_equal(np.asarray(Image.open(output)), np.asarray(Image.open(again)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--prompt"),
        (["--x", "epochs", "1"], "epochs"),
        (["--x", "seed", "one"], "one"),
        (["--x", "weights", "NOFACES"], "NOFACE"),
        (["--x", "seed", "1", "--prompt", "a", "--prompt", "b"], "--y prompt"),
        (["--x", "seed", "1", "--weights", "ALL", "--weights", "INS"], "--y weights"),
        (["--repeat", "nowhere.png"], "nowhere.png"),
    ],
)
def test_wrong_words_are_named(network, typed, capsys, words, said):
    assert typed("preview", network, *words) == 2
    assert said in capsys.readouterr().err


def test_the_blocks_are_measured(network, typed, pictures, capsys):
    assert typed("analyze", network, "--samples", "2") == 0
    table = capsys.readouterr().out
    assert set(re.findall(r"^(BASE|IN\d\d|M00|OUT\d\d)", table, re.M)) > {"BASE", "M00", "OUT11"}
    assert Image.open(network.with_name("momo-blocks.png")).width > 100
    assert typed("analyze", network, "--samples", "2") == 2
    assert "exists" in capsys.readouterr().err
    assert typed("analyze", network, "--samples", "2", "--dataset", pictures, "--overwrite") == 0
    assert capsys.readouterr().out != table


def test_blocks_in_pictures_and_a_suggestion(network, typed, tmp_path, capsys):
    mask = tmp_path / "mask.png"
    Image.fromarray(np.arange(64, dtype=np.uint8)[None].repeat(64, 0) // 32 * 255).save(mask)
    drawing = ["--prompt", "momo", "--samples", "1", "--language", "zh", "--mask", mask]
    assert typed("analyze", network, *drawing, "--value", "0", "--suggest", "0.9", "0.5") == 0
    said = capsys.readouterr().out
    assert "部位内" in said
    assert "实测" in said
    names = {path.name for path in network.parent.iterdir()}
    assert {f"momo-blocks{end}" for end in (
        ".png", "-changed.png", "-pictures.png", "-pictures.html", "-suggested.png",
    )} <= names  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--suggest", "0.95", "0.4"], "--mask"),
        (["--prompt", "momo", "--value", "1"], "1 for the block"),
        (["--samples", "0"], "samples is 0"),
        (["--mask", "nowhere.png"], "nowhere.png"),
    ],
)
def test_wrong_analyses_are_named(network, typed, capsys, words, said):
    assert typed("analyze", network, *words) == 2
    assert said in capsys.readouterr().err
