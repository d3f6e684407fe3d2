"""Difference maps, text, sheets, metadata and the loss plot: by hand, and with odd input."""

import math
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from lora_loop.core.preview import fonts
from lora_loop.core.preview.difference import difference
from lora_loop.core.preview.fonts import font_for, line_height, wrap
from lora_loop.core.preview.metadata import encode_png
from lora_loop.core.preview.progress_plot import loss_plot, loss_range, nice_ticks, smoothed
from lora_loop.core.preview.sheet import Sheet, draw_sheet, shown_size

PEN = ImageDraw.Draw(Image.new("RGB", (8, 8)))


def test_difference_by_hand() -> None:
    first = np.zeros((2, 5, 3), np.uint8)
    second = first.copy()
    second[0, 0] = (20, 0, 0)  # not more than 20
    second[0, 1] = (0, 21, 0)
    second[1, 4] = (255, 255, 255)
    second[1, 3] = (7, 7, 7)
    found = difference(Image.fromarray(first), Image.fromarray(second))
    assert found.percent == 20.0  # 2 of 10 pixels
    assert found.heat.size == (5, 2)
    brightness = np.asarray(found.heat.convert("L")).astype(int)
    assert brightness[0, 3] < brightness[1, 3] < brightness[0, 0] < brightness[1, 4]
    back = difference(Image.fromarray(second), Image.fromarray(first))
    assert back.percent == found.percent


def test_equal_pictures_do_not_differ() -> None:
    image = Image.effect_noise((8, 8), 90).convert("RGB")
    assert difference(image, image).percent == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "one",
        "a b  c",
        "word " * 40,
        "x" * 300,
        "一个红色的圆形" * 20,
        "é → Ω 😀",
        "a\n\nb",
        "\0\ud800",
    ],
)
def test_any_text_is_wrapped_into_its_width(text: str) -> None:
    font = font_for(text, 16)
    lines = wrap(PEN, text, font, 120, 4)
    assert 1 <= len(lines) <= 4
    assert all(PEN.textlength(line, font=font) <= 120 for line in lines)
    scalable = isinstance(font, ImageFont.FreeTypeFont)  # else Pillow's bitmap of 11 pixels
    assert line_height(font) >= (16 if scalable else 11)
    if len(text) > 50:
        assert lines[-1].endswith("...")
    else:
        assert "".join("".join(lines).split()) == "".join(text.replace("\ud800", "?").split())


def load_bitmap_font() -> fonts.Font:
    if hasattr(ImageFont, "load_default_imagefont"):
        return ImageFont.load_default_imagefont()
    return ImageFont.load_default()  # Pillow before 10.1 has no other


def test_a_system_font_of_the_right_size_is_better_than_a_bitmap(monkeypatch) -> None:
    scalable = ImageFont.FreeTypeFont.__new__(ImageFont.FreeTypeFont)
    monkeypatch.setattr(fonts, "_default", lambda size: load_bitmap_font())
    monkeypatch.setattr(fonts, "_system_font", lambda name, size: scalable)
    monkeypatch.setattr(fonts, "_count_missing", lambda font, text: 0)
    font_for.cache_clear()
    try:
        assert font_for("one", 16) is scalable
    finally:
        font_for.cache_clear()


def test_a_font_without_other_scripts_gets_signs_it_has() -> None:
    bitmap = load_bitmap_font()
    lines = wrap(PEN, "猫 é \ud800", bitmap, 200, 3)
    assert lines == ["? é ?"]
    PEN.text((0, 0), lines[0], font=bitmap)


def test_words_stay_whole() -> None:
    lines = wrap(PEN, "red circle on a blue background", font_for("a", 16), 110, 9)
    assert len(lines) > 1
    assert " ".join(lines) == "red circle on a blue background"


@pytest.mark.parametrize(
    ("size", "cells", "shown"),
    [
        ((64, 64), 2, (192, 192)),  # three times
        ((32, 32), 2, (128, 128)),  # four times at most
        ((128, 96), 2, (256, 192)),
        ((512, 768), 2, (341, 512)),
        ((64, 64), 10_000, (77, 77)),  # a sheet of 60 megapixels
        ((2048, 8), 2, (512, 2)),
    ],
)
def test_shown_sizes(size: tuple[int, int], cells: int, shown: tuple[int, int]) -> None:
    assert shown_size(*size, cells=cells) == shown


def test_a_sheet_shows_its_pictures_enlarged() -> None:
    red = Image.new("RGB", (64, 64), (255, 0, 0))
    sheet = Sheet(
        title="A very long title " * 30,
        columns=(("NONE", ""), ("1,0.5," * 20, "same as NONE")),
        rows=(("a prompt " * 50, "seed 1"), ("", "seed 2")),
        footer="facts | " * 200,
        picture_size=(64, 64),
        compares="difference to the base",
    )
    differences = [[difference(red, red), None], [None, None]]
    image = draw_sheet(sheet, [([[red, None], [None, None]], differences)])
    pixels = np.asarray(image)
    assert int((pixels == (255, 0, 0)).all(axis=2).sum()) == 192 * 192
    assert image.width < 800


def test_png_texts_survive_odd_letters() -> None:
    data = encode_png(Image.new("RGB", (1, 1)), {"parameters": "a\0b \ud800 猫", "empty": ""})
    assert data.startswith(b"\x89PNG")


def test_smoothing_by_hand() -> None:
    """Of five values or less the weight is 1/5: (0.8 * 0.2 * 1 + 0.2 * 2) / (1 - 0.8^2) = 14/9."""
    assert smoothed(np.array([3.0])).tolist() == [3.0]
    np.testing.assert_allclose(smoothed(np.array([1.0, 2.0])), [1.0, 14 / 9])
    constant = smoothed(np.full(3000, 0.7))
    np.testing.assert_allclose(constant, 0.7)


def test_smoothing_passes_over_what_is_not_finite() -> None:
    result = smoothed(np.array([math.nan, 1.0, math.inf, 1.0]))
    assert math.isnan(result[0])
    np.testing.assert_allclose(result[1:], 1.0)


def test_ticks_by_hand() -> None:
    assert nice_ticks(0.0, 0.3, 6) == [0.0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3]
    assert nice_ticks(1.0, 1000.0, 8) == [200.0, 400.0, 600.0, 800.0, 1000.0]
    assert nice_ticks(0.0, 1e-9, 2) == [0.0, 5e-10, 1e-9]
    for low, high in ((0.5, 1.5), (-3.0, 11.0), (0.0, 1e12)):
        assert 2 <= len(nice_ticks(low, high, 6)) <= 7


def test_one_spike_does_not_flatten_the_curve() -> None:
    losses = np.full(1000, 0.1)
    losses[10] = 1e6
    assert loss_range(losses, np.full(1000, 0.1))[1] < 0.2


@pytest.mark.parametrize(
    "losses",
    [
        [],
        [0.1],
        [0.1, 0.2],
        [math.nan],
        [math.nan, math.inf, 0.1, -math.inf, math.nan, 0.2, 0.3],
        [0.0] * 50,
        [1e-30] * 3,
        [1e30, -1e30],
        [-0.5] * 4,
    ],
)
def test_any_losses_are_plotted(losses: list[float]) -> None:
    steps = list(range(1, len(losses) + 1))
    image = loss_plot(steps, losses, [1e-4] * len(losses), "损失\n of \ud800 my_lora")
    assert image.size == (1000, 560)


def test_the_curves_are_where_they_belong() -> None:
    image = np.asarray(loss_plot([1, 2, 3], [0.5, 0.5, 0.5], [0.0, 1e-4, 0.0])).astype(int)
    blue = np.argwhere(image[52:390, :, 2] - image[52:390, :, 0] > 120)
    rows = np.unique(blue[:, 0]) + 52  # 0.5 lies at 1 / 1.05 of the graph's height
    assert abs(rows.mean() - (52 + 340 * (1 - 1 / 1.05))) < 3


def test_many_steps_are_plotted_quickly() -> None:
    chance = np.random.default_rng(0)
    losses = chance.gamma(1, 0.1, 100_000).tolist()
    start = time.process_time()
    loss_plot(range(1, 100_001), losses, [1e-4] * 100_000)
    assert time.process_time() - start < 5


def test_unequal_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="2 steps, 1 losses"):
        loss_plot([1, 2], [0.1], [0.1, 0.1])
