"""Pictures that a node shows below its widgets: files in ComfyUI's temp folder."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

from PIL import Image

from .places import OWN_FOLDER
from .protocol import Host


def shown_images(host: Host, pictures: Sequence[Image.Image], name: str) -> list[dict[str, str]]:
    """Write pictures and name them as ComfyUI's page asks for them."""
    folder = host.folder("temp") / OWN_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for picture in pictures:
        file = f"{name}-{secrets.token_hex(6)}.png"
        picture.save(folder / file, compress_level=1)
        found.append({"filename": file, "subfolder": OWN_FOLDER, "type": "temp"})
    return found
