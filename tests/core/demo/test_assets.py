"""The shipped base model and pictures: layout, size, type, and the card's hash."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from lora_loop.core.demo import __file__ as package
from lora_loop.core.demo.subject import SUBJECT_TRIGGER, base_prompts, judge_subject
from lora_loop.core.demo.subject_set import (
    AS_JPEG,
    FOLDER,
    ITEMS,
    WORLD_FOLDER,
    WORLD_PICTURES,
    write_dataset,
    write_world,
)
from lora_loop.core.models.keymaps import (
    UNET_PREFIX,
    VAE_PREFIX,
    TextLayout,
    UNetLayout,
    VaeLayout,
    text_names,
    unet_map,
    vae_map,
)

TEXT_PREFIX = "cond_stage_model.transformer."
HOME = Path(package).parent
BASE = HOME / "assets" / "base.safetensors"
CARD = HOME / "assets" / "MODEL_CARD.md"
DATASET = HOME / "dataset" / FOLDER
IMAGES = sorted(p for p in DATASET.glob("*") if p.suffix in {".png", ".jpg"})


def test_file_is_small_and_half_precision_in_sd1_layout() -> None:
    assert BASE.stat().st_size <= 40_000_000
    expected = {
        *(UNET_PREFIX + name for name in unet_map(UNetLayout(widths=(64, 64, 128, 128)))),
        *(VAE_PREFIX + name for name in vae_map(VaeLayout(widths=(128, 64, 64, 128), resnets=1))),
        *(TEXT_PREFIX + name for name in text_names(TextLayout(layers=4))),
    }
    with safe_open(BASE, "pt") as file:
        assert set(file.keys()) == expected
        assert {file.get_slice(name).get_dtype() for name in expected} == {"F16"}
        assert file.metadata()["modelspec.architecture"] == "stable-diffusion-v1"
        assert file.metadata()["lora_loop.stage"] == "final"
        assert len(file.get_slice(f"{VAE_PREFIX}encoder.mid.attn_1.q.weight").get_shape()) == 4


def test_card_names_the_file_by_its_hash() -> None:
    digest = hashlib.sha256(BASE.read_bytes()).hexdigest()
    assert re.findall(r"\b[0-9a-f]{64}\b", CARD.read_text("utf-8")) == [digest]


def test_bundled_pictures_are_several_and_of_several_sizes() -> None:
    sizes = [Image.open(path).size for path in IMAGES]
    assert 12 <= len(IMAGES) <= 24
    assert len(set(sizes)) >= 4
    assert any(w > h for w, h in sizes)
    assert any(w < h for w, h in sizes)
    assert any(path.suffix == ".jpg" for path in IMAGES)
    assert all(64 <= side <= 256 for size in sizes for side in size)


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_bundled_picture_shows_the_subject_and_says_so(path: Path) -> None:
    assert judge_subject(Image.open(path))
    assert path.with_suffix(".txt").read_text("utf-8").startswith(SUBJECT_TRIGGER)


def test_dataset_is_what_the_code_writes(tmp_path: Path) -> None:
    written = write_dataset(tmp_path)
    assert sorted(p.name for p in written.iterdir()) == sorted(p.name for p in DATASET.iterdir())
    assert len(IMAGES) == len(ITEMS)
    for path in written.glob("*.txt"):
        assert path.read_text("utf-8") == (DATASET / path.name).read_text("utf-8")
    for path in written.glob("*.png"):
        # not to the bit: Pillow 9.5 rounds a few pixels on the edges of ellipses otherwise
        drawn, bundled = (
            np.asarray(Image.open(p)).astype(int) for p in (path, DATASET / path.name)
        )
        apart = np.abs(drawn - bundled).max(axis=2)
        assert (apart > 0).mean() < 1e-3
        assert apart.max() < 16
    assert len(list(written.glob("*.jpg"))) == len(AS_JPEG)


def test_the_bundled_world_is_what_the_code_writes_and_judges_nothing(tmp_path: Path) -> None:
    bundled = HOME / "dataset" / WORLD_FOLDER
    written = write_world(tmp_path)
    names = sorted(path.name for path in written.iterdir())
    assert names == sorted(path.name for path in bundled.iterdir())
    assert len(names) == 2 * WORLD_PICTURES
    captions = {path.read_text("utf-8").strip() for path in bundled.glob("*.txt")}
    assert not captions & {prompt for prompt, _ in base_prompts()}
    assert not any(SUBJECT_TRIGGER in caption for caption in captions)
    for path in written.glob("*.png"):
        assert Image.open(path).tobytes() == Image.open(bundled / path.name).tobytes()
