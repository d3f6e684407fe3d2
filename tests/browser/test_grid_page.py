"""A grid's page opened from a file: it compares, in two languages, and asks nothing of anyone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_loop.core.preview.difference import difference
from lora_loop.core.preview.grid import Grid, Page
from lora_loop.core.preview.page import grid_page
from lora_loop.core.preview.sampling import DrawSettings
from lora_loop.core.preview.sheet import Sheet
from lora_loop.core.preview.table import Label, Table

pytestmark = pytest.mark.browser

ODD = "</script><b id='odd'>bold</b> 一只猫"


def picture(level: int) -> Image.Image:
    """Gray, its left half brighter by `level`."""
    pixels = np.full((32, 32, 3), 100, np.uint8)
    pixels[:, :16] += level
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """Two pages of two rows and columns; the last cell was not drawn."""
    cells = [[picture(0), picture(60)], [picture(0), picture(10)]]
    cut = [[picture(0), picture(60)], [picture(0), None]]
    pages = tuple(
        Page(
            cells=tuple(tuple(row) for row in rows),
            differences=tuple(
                tuple(cell and difference(row[0], cell) for cell in row) for row in rows
            ),
        )
        for rows in (cells, cut)
    )
    labels = (Label("NONE", ""), Label("ALL", ""))
    rows, names = (Label(ODD, "seed 1"), Label("a cat", "seed 2")), (Label("1", ""), Label("2", ""))
    legend = Sheet(
        title=f"grid {ODD}", columns=labels, rows=rows, footer="facts", picture_size=(32, 32),
        pages=names,
    )  # fmt: skip
    table = Table(columns=labels, rows=rows, pages=names, cells=(), settings=DrawSettings())
    grid = Grid(table=table, legend=legend, pages=pages, image=picture(0), metadata={})
    path = tmp_path_factory.mktemp("page") / "grid.html"
    path.write_text(grid_page(grid), encoding="utf-8")
    return path


@pytest.fixture
def opened(browser, page_file):
    """The page, offline, and everything that it complained of or asked for."""
    context = browser.new_context(offline=True, viewport={"width": 1280, "height": 800})
    page, said, asked = context.new_page(), [], []
    # Chromium's hints, as on how often a canvas is read here, are no complaints
    page.on("console", lambda one: said.append(one.text) if one.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(page_file.as_uri())
    page.wait_for_function("document.querySelector('#name-b span').textContent !== '–'")
    yield page
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
    context.close()


def shown(page, x: float) -> list[int]:
    """The colour in the middle of the stage's height, at a share of its width."""
    return page.evaluate(
        """x => { const c = document.getElementById("canvas");
        return [...c.getContext("2d").getImageData(c.width * x, c.height / 2, 1, 1).data]; }""",
        x,
    )[:3]


def choose(page, first: int, second: int) -> None:
    cells = page.locator(".cell")
    cells.nth(first).click()
    cells.nth(second).click()


def test_cells_are_compared_in_every_way(opened) -> None:
    choose(opened, 0, 1)
    assert opened.inner_text("#measure").startswith("50.0 % of the pixels")
    opened.keyboard.press("2")
    opened.check("#sharp")
    left, right = shown(opened, 0.4), shown(opened, 0.6)
    assert (left, right) == ([100] * 3, [100] * 3)  # A's left half and B's right half
    opened.evaluate("document.getElementById('border').value = 0")
    opened.evaluate("paint()")
    assert shown(opened, 0.4) == [160] * 3
    opened.keyboard.press("4")
    assert shown(opened, 0.4) == [120] * 3  # 60, twice as bright
    assert shown(opened, 0.6) == [0] * 3
    opened.keyboard.press("3")
    seen = set()
    for _ in range(40):
        seen.add(shown(opened, 0.4)[0])
        opened.wait_for_timeout(50)
        if seen == {100, 160}:
            break
    assert seen == {100, 160}
    opened.keyboard.press("1")
    assert shown(opened, 0.1) == shown(opened, 0.9) == [100] * 3
    assert shown(opened, 0.55) == [160] * 3


def test_small_differences_are_told_apart_from_none(opened) -> None:
    choose(opened, 0, 3)
    assert opened.inner_text("#measure").startswith("0.0 % of the pixels")
    assert "is 10" in opened.inner_text("#measure")
    choose(opened, 0, 2)
    assert "equal" in opened.inner_text("#measure")


def test_the_keys_move_b_and_zoom(opened) -> None:
    choose(opened, 0, 1)
    opened.keyboard.press("ArrowDown")
    assert opened.inner_text("#name-b").endswith("a cat (seed 2) · ALL")
    opened.keyboard.press("+")
    assert float(opened.input_value("#zoom")) > 0
    opened.keyboard.press("0")
    assert float(opened.input_value("#zoom")) == 0
    opened.keyboard.press("x")
    assert opened.inner_text("#name-a").endswith("a cat (seed 2) · ALL")


def test_the_language_changes_and_pages_turn(opened) -> None:
    opened.click("#language")
    assert opened.locator("html").get_attribute("lang") == "zh-CN"
    assert opened.inner_text("#modes button:nth-child(2)") == "滑动对比"
    opened.locator("#pages button").nth(1).click()
    assert opened.locator(".cell").count() == 3
    assert opened.inner_text(".empty") == "未绘制"


def test_names_are_shown_as_text(opened) -> None:
    assert opened.locator("#odd").count() == 0
    assert ODD in opened.inner_text("#title")
    assert ODD in opened.inner_text("#table")
