"""Pictures on disk, whole or not at all."""

from io import BytesIO
from pathlib import Path

from PIL import Image

from .atomic import write_bytes


def write_png(path: Path, image: Image.Image, *, overwrite: bool = False) -> None:
    """Write a picture as PNG. Raises FileError, for an existing file too unless `overwrite`."""
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    write_bytes(path, buffer.getvalue(), overwrite=overwrite)
