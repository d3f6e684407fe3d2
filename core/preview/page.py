"""A grid as one HTML file that compares its cells: no network, no other file, no library."""

from __future__ import annotations

import base64
import html
import io
import json
import re
from pathlib import Path
from typing import Any

from PIL import Image

from .difference import THRESHOLD
from .grid import Grid

_TEMPLATE = Path(__file__).parent / "assets" / "page.html"


def grid_page(grid: Grid) -> str:
    """Write the page, in English or Chinese as the grid is, with a button for the other one.

    Names and prompts go in as JSON in which no character can end the script it stands in, and are
    shown as text only; the page's own policy forbids it to load or send anything.
    """
    places: dict[int, int] = {}
    images: list[str] = []

    def index(picture: Image.Image | None) -> int | None:
        if picture is None:
            return None
        if id(picture) not in places:
            places[id(picture)] = len(images)
            images.append(_data_uri(picture))
        return places[id(picture)]

    facts: dict[str, Any] = {
        "title": grid.legend.title,
        "facts": grid.legend.footer,
        "columns": grid.legend.columns,
        "rows": grid.legend.rows,
        "pages": grid.legend.pages,
        "cells": [
            [
                [
                    {"image": index(cell), "percent": found and found.percent}
                    for cell, found in zip(cells, differences, strict=True)
                ]
                for cells, differences in zip(page.cells, page.differences, strict=True)
            ]
            for page in grid.pages
        ],
        "images": images,
        "threshold": THRESHOLD,
        "language": grid.table.language,
    }
    fills = {"TITLE": html.escape(_readable(grid.legend.title)), "DATA": _embedded(facts)}
    template = _TEMPLATE.read_text(encoding="utf-8")
    # In one pass: what is filled in may hold such a mark itself
    return re.sub("@(TITLE|DATA)@", lambda mark: fills[mark[1]], template)


def _embedded(facts: dict[str, Any]) -> str:
    """Write JSON that HTML cannot take for the end of its script, nor old browsers for a line."""
    text = json.dumps(facts, ensure_ascii=True)  # lone surrogates and U+2028 become escapes
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _readable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _data_uri(picture: Image.Image) -> str:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
