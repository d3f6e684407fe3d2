"""A checkpoint of SD 1.5's full size, random weights, trained on real photographs on the CPU."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors import safe_open

from lora_loop.core.cli.main import main
from lora_loop.core.files.network_file import ALPHA, DOWN, UP

RANK = 16


def photographs(folder: Path) -> Path:
    """Two photographs of scikit-image's, as files of different shapes."""
    from skimage import data

    folder.mkdir(parents=True)
    for name in ("astronaut", "coffee"):
        Image.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text(f"photo of an {name}")
    return folder


@pytest.mark.slow
def test_sd15_trains_on_photographs_and_writes_264_modules(tmp_path, checkpoints):
    base = checkpoints.write_sd1_checkpoint(tmp_path / "sd15.safetensors", seed=1)
    folder = photographs(tmp_path / "photos" / "1_photo")
    recipe = tmp_path / "recipe.json"
    recipe.write_text(
        '{"base": {"checkpoint": "sd15.safetensors"}, "dataset": {"folder": "photos"}, '
        f'"network": {{"rank": {RANK}}}, "training": {{"max_steps": 2}}, '
        '"output": {"name": "photo"}}'
    )
    assert folder.is_dir()
    assert base.stat().st_size > 2_000_000_000
    assert main(["train", str(recipe), "--set", "dataset.resolution=256"]) == 0
    with safe_open(str(tmp_path / "output" / "photo.safetensors"), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    modules = {key.removesuffix(DOWN) for key in tensors if key.endswith(DOWN)}
    assert len(modules) == 264
    assert sum(key.startswith("lora_unet_") for key in modules) == 192
    assert sum(key.startswith("lora_te_text_model_") for key in modules) == 72
    assert set(tensors) == {key + suffix for key in modules for suffix in (DOWN, UP, ALPHA)}
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
    factors = [tensor for key, tensor in tensors.items() if not key.endswith(ALPHA)]
    assert sum(t.numel() * t.element_size() for t in factors) == RANK * 1.125 * 2**20
