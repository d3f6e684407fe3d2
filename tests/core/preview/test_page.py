"""The page that compares a grid's cells: whole, offline, and safe from what it shows."""

import base64
import io
import json
import re

import numpy as np
from PIL import Image

from lora_loop.core.adapters.network import Network
from lora_loop.core.models.base_model import BaseModel
from lora_loop.core.preview.axes import Axis, XYZRequest
from lora_loop.core.preview.grid import Grid, render_grid
from lora_loop.core.preview.page import grid_page
from lora_loop.core.preview.sampling import DrawSettings, Prompt

EVIL = "</script><img src=x onerror=alert(1)> <!-- \u2028 & \ud800 一只猫 @DATA@ @TITLE@"


def draw(base: BaseModel, network: Network) -> Grid:
    request = XYZRequest(
        x=Axis("weights", ("ALL", "OUTS", "ALL")),
        y=Axis("prompt", (EVIL, "a cat")),
        prompt=Prompt("", EVIL),
        settings=DrawSettings(steps=1),
        network_name=EVIL,
    )
    return render_grid(base, network, request)


def facts_of(page: str) -> dict:
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def test_the_page_holds_every_distinct_picture_once(base: BaseModel, network: Network) -> None:
    grid = draw(base, network)
    facts = facts_of(grid_page(grid))
    assert len(facts["images"]) == 4
    for row, cells in enumerate(facts["cells"][0]):
        assert cells[0] == cells[2]
        for column, cell in enumerate(cells):
            data = facts["images"][cell["image"]].removeprefix("data:image/png;base64,")
            picture = Image.open(io.BytesIO(base64.b64decode(data)))
            assert np.array_equal(np.asarray(picture), np.asarray(grid.cells[row][column]))
            assert cell["percent"] == grid.differences[row][column].percent


def test_names_and_prompts_cannot_leave_their_place(base: BaseModel, network: Network) -> None:
    page = grid_page(draw(base, network))
    page.encode()  # no lone surrogate is left
    assert page.count("</script>") == 2
    assert "<img src=x" not in page
    assert "innerHTML" not in page
    assert facts_of(page)["rows"][0][0].startswith("</script><img")


def test_the_page_asks_nothing_of_a_network(base: BaseModel, network: Network) -> None:
    page = grid_page(draw(base, network))
    assert "default-src 'none'" in page
    assert not re.search(r"https?://|src=\"(?!data:)|@import|fetch\(|XMLHttpRequest", page)


def test_a_stopped_grid_has_empty_cells(base: BaseModel, network: Network) -> None:
    request = XYZRequest(x=Axis("seed", ("1", "2")), settings=DrawSettings(steps=1))
    grid = render_grid(base, network, request, stop=lambda: True)
    facts = facts_of(grid_page(grid))
    assert facts["cells"] == [[[{"image": None, "percent": None}] * 2]]
    assert facts["images"] == []
