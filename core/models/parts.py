"""The tensors of a checkpoint by part, under one spelling whatever the file's.

U-Net and VAE keep LDM's names, without their prefix. Text encoders get transformers' names with
`text_model.` in front, whether the file has transformers' or open_clip's layout; the latter through
views.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor

from . import keymaps
from .checkpoint import Checkpoint, Shapes
from .families import Family
from .keymaps import UNET_PREFIX, VAE_PREFIX, OpenClip, TextLayout, canonical_text_name

TITLES = {
    "unet": "U-Net",
    "vae": "VAE",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
}
"""The parts of a base model, in the words of errors."""

_WHOLE = OpenClip("")
_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.")
_WRAPPED = re.compile(r"(?<=\.)wrapped\.")


class Stored(NamedTuple):
    """One tensor of a part: its name in the checkpoint, its shape, and the view of it."""

    name: str
    shape: tuple[int, ...]
    place: OpenClip = _WHOLE

    def read(self, checkpoint: Checkpoint) -> Tensor:
        """The tensor, as the checkpoint stores it."""
        return self.place.view(checkpoint.tensor(self.name))


PartTensors = Mapping[str, Stored]


def parts_of(checkpoint: Checkpoint, family: Family) -> dict[str, PartTensors]:
    """All tensors of each part by its canonical name; a part that is missing is empty."""
    shapes = checkpoint.shapes
    parts: dict[str, PartTensors] = {
        "unet": _under(shapes, UNET_PREFIX),
        "vae": _under(shapes, VAE_PREFIX),
    }
    for part, prefix in family.text_prefixes.items():
        parts[part] = _text(shapes, prefix)
    return parts


def missing_name(shapes: Shapes, family: Family, part: str, canonical: str) -> str:
    """What a tensor that is not there would be called in this checkpoint."""
    prefixes = {"unet": UNET_PREFIX, "vae": VAE_PREFIX, **family.text_prefixes}
    prefix = prefixes[part]
    if part in {"unet", "vae"}:
        return prefix + canonical
    if any(name.startswith(f"{prefix}model.") for name in shapes):
        number = re.search(r"layers\.(\d+)\.", canonical)
        layout = TextLayout(layers=int(number[1]) + 1 if number else 0, projection=1)
        return f"{prefix}model.{keymaps.open_clip_map(layout)[canonical].name}"
    return f"{prefix}transformer.{canonical}"


def unwrapped(name: str) -> str:
    """A name without the wrappers that the WebUI puts around text encoders and embeddings."""
    return _WRAPPED.sub("", name)


def _under(shapes: Shapes, prefix: str) -> dict[str, Stored]:
    start = len(prefix)
    return {
        name[start:]: Stored(name, shape)
        for name, shape in shapes.items()
        if name.startswith(prefix)
    }


def _text(shapes: Shapes, prefix: str) -> dict[str, Stored]:
    own = _under(shapes, f"{prefix}transformer.")
    is_transformers = any(".self_attn." in name for name in own)
    if is_transformers:
        return {canonical_text_name(name): stored for name, stored in own.items()}
    return _open_clip(_under(shapes, f"{prefix}model."))


def _open_clip(theirs: Mapping[str, Stored]) -> dict[str, Stored]:
    numbers = [int(found[1]) for name in theirs if (found := _LAYER.match(name))]
    layout = TextLayout(layers=max(numbers, default=-1) + 1, projection=1)
    found = {}
    for name, place in keymaps.open_clip_map(layout).items():
        stored = theirs.get(place.name)
        if stored is not None:
            found[name] = Stored(stored.name, place.shape(stored.shape), place)
    return found
