"""The cells of a grid as they are drawn: one small sheet with each at its place."""

import base64
import io

from PIL import Image

from ..core.events import CellDrawn

_SIDE = 72  # pixels of a cell
_MOST = 16  # columns and rows that are shown


class CellSheet:
    """Gathers small copies of the page of a grid that is being drawn."""

    def __init__(self) -> None:
        self._page = -1
        self._cells: dict[tuple[int, int], Image.Image] = {}

    def take(self, event: CellDrawn) -> None:
        """Put a picture at its places; a new page begins with an empty sheet."""
        small = event.picture.convert("RGB")
        small.thumbnail((_SIDE, _SIDE))
        for page, row, column in event.places:
            if page != self._page:
                self._page, self._cells = page, {}
            if max(row, column) < _MOST:
                self._cells[row, column] = small

    def source(self) -> str:
        """The sheet as an image's address; empty where there is no cell yet."""
        if not self._cells:
            return ""
        wide, high = (max(small.size[i] for small in self._cells.values()) + 2 for i in (0, 1))
        rows, columns = (max(place[i] for place in self._cells) + 1 for i in (0, 1))
        sheet = Image.new("RGB", (columns * wide, rows * high), (24, 24, 28))
        for (row, column), small in self._cells.items():
            sheet.paste(small, (column * wide, row * high))
        data = io.BytesIO()
        sheet.save(data, "JPEG", quality=85)
        return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
