"""Pictures on disk and items without any, for the tests of this folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_loop.core.data.items import ImageItem

SavePicture = Callable[..., Path]
MakeItem = Callable[..., ImageItem]


@pytest.fixture
def save_picture(tmp_path: Path) -> SavePicture:
    """save_picture("10_momo/a.png", (64, 48), caption="a cat"): noise, different every time."""
    count = 0

    def save(name: str, size: tuple[int, int] = (64, 64), caption: str | None = None) -> Path:
        nonlocal count
        count += 1
        chance = np.random.default_rng(count)
        pixels = chance.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        if caption is not None:
            path.with_suffix(".txt").write_text(caption, encoding="utf-8")
        return path

    return save


@pytest.fixture
def make_item() -> MakeItem:
    """make_item(640, 480, repeats=3): an item that no file stands behind."""

    def make(width: int, height: int, repeats: int = 1, name: str = "a.png") -> ImageItem:
        return ImageItem(
            path=Path("/nowhere") / name,
            caption="a cat",
            has_caption=True,
            repeats=repeats,
            concept="momo",
            width=width,
            height=height,
            alpha=False,
            sha256="0" * 64,
        )

    return make
