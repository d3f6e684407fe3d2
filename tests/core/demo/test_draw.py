"""The drawn world: the same seed gives the same pictures and words."""

from __future__ import annotations

import numpy as np
import pytest

from lora_loop.core.demo.draw import (
    BACKGROUNDS,
    COLOURS,
    Scene,
    caption,
    describe,
    draw,
    random_drawing,
    sample_scene,
)


def test_same_seed_gives_the_same_scene_picture_and_words() -> None:
    one, other = np.random.default_rng(5), np.random.default_rng(5)
    for _ in range(5):
        left, right = sample_scene(one), sample_scene(other)
        assert left == right
        assert caption(left, one) == caption(right, other)
        assert draw(left, 64, 48).tobytes() == draw(right, 64, 48).tobytes()
    assert random_drawing(one, 64, 64).tobytes() == random_drawing(other, 64, 64).tobytes()


@pytest.mark.parametrize(("width", "height"), [(64, 64), (48, 80), (96, 64)])
def test_middle_and_corner_have_the_named_colours(width: int, height: int) -> None:
    picture = draw(Scene(shape="square", colour="red", background="blue"), width, height)
    assert picture.size == (width, height)
    assert picture.getpixel((width // 2, height // 2)) == COLOURS["red"]
    assert picture.getpixel((0, 0)) == BACKGROUNDS["blue"]


def test_ring_has_a_hole() -> None:
    picture = draw(Scene(shape="ring", colour="red", background="blue"), 64, 64)
    assert picture.getpixel((32, 32)) == BACKGROUNDS["blue"]


def test_description_names_what_is_not_the_default() -> None:
    plain = Scene(shape="circle", colour="orange", background="blue")
    assert describe(plain) == "an orange circle on a blue background"
    full = Scene(shape="sad face", colour="red", background="gray", size="large", position="left")
    assert describe(full) == "a large sad red face on a gray background, left"


def test_shape_and_background_never_have_one_colour() -> None:
    rng = np.random.default_rng(0)
    assert all(s.colour != s.background for s in (sample_scene(rng) for _ in range(300)))
