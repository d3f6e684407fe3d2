"""A small loop to test with: a thin checkpoint of random weights, a few pictures, a recipe."""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_loop.core.config.recipe import (
    BaseConfig,
    DatasetConfig,
    NetworkConfig,
    OptimizerConfig,
    OutputConfig,
    Recipe,
    TrainingConfig,
)


def load_helper(name: str, path: Path):
    """Import a helper module of the tests by its file."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


@pytest.fixture(scope="session")
def checkpoints():
    """The helper that writes checkpoints of random weights."""
    return load_helper("make_checkpoint", Path(__file__).parent / "models/make_checkpoint.py")


@pytest.fixture(scope="session")
def random_updates():
    """The helper that makes random updates of every algorithm."""
    path = Path(__file__).parent / "adapters/random_updates.py"
    return load_helper("random_updates", path).random_updates


@pytest.fixture(scope="session")
def thin_checkpoint(tmp_path_factory, checkpoints) -> Path:
    path = tmp_path_factory.mktemp("base") / "thin.safetensors"
    return checkpoints.write_sd1_checkpoint(
        path,
        shape=checkpoints.THIN,
        seed=3,
        dtype=torch.float32,
        metadata={"modelspec.resolution": "64x64"},
    )


def write_pictures(folder: Path, sizes, caption="momo, picture {}") -> Path:
    """Random pictures of these (width, height) with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    chance = np.random.default_rng(5)
    for index, (width, height) in enumerate(sizes):
        noise = chance.integers(0, 255, (height // 8, width // 8, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((width, height)).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(caption.format(index), encoding="utf-8")
    return folder


@pytest.fixture(scope="session", name="write_pictures")
def write_pictures_() -> Callable[..., Path]:
    """The helper that writes a folder of random pictures with captions."""
    return write_pictures


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("dataset")
    write_pictures(root / "2_momo", [(64, 64), (64, 64), (96, 64), (64, 104)])
    return root


@pytest.fixture
def recipe(thin_checkpoint, pictures, tmp_path) -> Recipe:
    return Recipe(
        base=BaseConfig(checkpoint=str(thin_checkpoint)),
        dataset=DatasetConfig(folder=str(pictures)),
        network=NetworkConfig(rank=2, alpha=2.0),
        optimizer=OptimizerConfig(unet_lr=1e-2, text_encoder_lr=1e-2),
        training=TrainingConfig(max_steps=6, batch_size=2),
        output=OutputConfig(folder=str(tmp_path / "out"), name="momo", precision="fp32"),
    )


def with_output(recipe: Recipe, **changes) -> Recipe:
    return replace(recipe, output=replace(recipe.output, **changes))
