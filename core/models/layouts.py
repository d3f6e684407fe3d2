"""Widths and depths of a Stable Diffusion 1 checkpoint, read from its tensors' shapes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count

from ..errors import CheckpointError
from .checkpoint import Checkpoint, Shapes
from .keymaps import (
    TEXT_PREFIX,
    UNET_PREFIX,
    VAE_PREFIX,
    TextLayout,
    UNetLayout,
    VaeLayout,
    canonical_text_name,
)

UNET_HEADS = 8  # in every layer of SD1, whatever its width
TEXT_HEAD_SIZE = 64
GROUPS = 32  # of every group norm in U-Net and VAE


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All that is needed to build the three networks of a checkpoint.

    context: channels of the text embedding that the U-Net takes. text_width: channels of the text
    encoder, and text_inner those inside its feed-forward layers. latents: channels of the VAE's
    latents.
    """

    unet: UNetLayout
    vae: VaeLayout
    text: TextLayout
    context: int
    text_width: int
    text_inner: int
    latents: int


def part_names(shapes: Shapes, prefix: str) -> dict[str, str]:
    """Names inside one part (a text encoder's in canonical spelling) -> names in the file."""
    found = {}
    for name in shapes:
        if name.startswith(prefix):
            inside = name[len(prefix) :]
            found[canonical_text_name(inside) if prefix == TEXT_PREFIX else inside] = name
    return found


def read_layout(checkpoint: Checkpoint) -> Layout:
    """Read the layout of an SD1 checkpoint.

    Raises CheckpointError where a part is missing or makes no sense.
    """
    try:
        unet, context = _unet(_part(checkpoint, UNET_PREFIX, "U-Net"))
        vae, latents = _vae(_part(checkpoint, VAE_PREFIX, "VAE"))
        text = _part(checkpoint, TEXT_PREFIX, "text encoder")
        layers = _count(text.shapes, "text_model.encoder.layers.{}.layer_norm1.weight")
        text_width = _text_width(text)
        if text_width != context:
            raise _LayoutError(
                f"its text encoder has {text_width} channels, its U-Net takes {context}"
            )
        return Layout(
            unet=unet,
            vae=vae,
            text=TextLayout(layers=layers),
            context=context,
            text_width=text_width,
            text_inner=text.width("text_model.encoder.layers.0.mlp.fc1.weight"),
            latents=latents,
        )
    except _LayoutError as error:
        raise CheckpointError(
            f"{checkpoint.path}: {error}; it is damaged, or not laid out as Stable Diffusion 1.x"
        ) from error


def text_heads(width: int) -> int:
    """Attention heads of a text encoder of this width: 64 channels each, one at least."""
    return max(1, width // TEXT_HEAD_SIZE)


class _LayoutError(Exception):
    """What does not fit, without the file's name."""


@dataclass(frozen=True, slots=True)
class _Part:
    title: str
    shapes: Shapes

    def shape(self, name: str, dimensions: int) -> tuple[int, ...]:
        shape = self.shapes.get(name)
        if shape is None:
            raise _LayoutError(f"its {self.title} has no tensor {name!r}")
        if len(shape) != dimensions or 0 in shape:
            raise _LayoutError(f"the {self.title}'s tensor {name!r} has the shape {list(shape)}")
        return shape

    def width(self, name: str) -> int:
        """Output channels of a linear's weight."""
        return self.shape(name, 2)[0]


def _part(checkpoint: Checkpoint, prefix: str, title: str) -> _Part:
    names = part_names(checkpoint.shapes, prefix)
    if not names:
        raise _LayoutError(f"it has no {title} (no tensor begins with {prefix!r})")
    return _Part(title, {name: checkpoint.shapes[full] for name, full in names.items()})


def _count(shapes: Shapes, pattern: str) -> int:
    """How many of the names `pattern` with 0, 1, 2, ... are there without a gap."""
    return next(number for number in count() if pattern.format(number) not in shapes)


def _same(values: Iterable[int], what: str) -> int:
    found = sorted(set(values))
    if len(found) != 1:
        raise _LayoutError(f"{what} differ: {found}")
    return found[0]


def _unet(part: _Part) -> tuple[UNetLayout, int]:
    """Walk the input blocks: each is a residual block, maybe with attention, or a downsampling."""
    levels: list[list[tuple[int, int]]] = [[]]  # for each residual block (width, transformer depth)
    for number in count(1):
        block = f"input_blocks.{number}"
        if f"{block}.0.op.weight" in part.shapes:
            levels.append([])
        elif f"{block}.0.in_layers.2.weight" in part.shapes:
            width = part.shape(f"{block}.0.in_layers.2.weight", 4)[0]
            levels[-1].append((width, _depth(part, f"{block}.1")))
        else:
            break
    layout = UNetLayout(
        widths=tuple(_same((w for w, _ in level), "widths in one level") for level in levels),
        resnets=_same((len(level) for level in levels), "residual blocks per level"),
        depths=tuple(_same((d for _, d in level), "depths in one level") for level in levels),
        middle_depth=_depth(part, "middle_block.1"),
    )
    _check_widths(part, layout.widths)
    if not layout.middle_depth or len(layout.widths) < 2:
        raise _LayoutError("its U-Net has no attention in the middle, or one level only")
    context = part.shape("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2)[1]
    return layout, context


def _depth(part: _Part, attention: str) -> int:
    return _count(part.shapes, attention + ".transformer_blocks.{}.norm1.weight")


def _vae(part: _Part) -> tuple[VaeLayout, int]:
    number = _count(part.shapes, "encoder.down.{}.block.0.conv1.weight")
    levels = [f"encoder.down.{level}" for level in range(number)]
    layout = VaeLayout(
        widths=tuple(part.shape(f"{level}.block.0.conv1.weight", 4)[0] for level in levels),
        resnets=_same(
            (_count(part.shapes, level + ".block.{}.conv1.weight") for level in levels),
            "residual blocks per level of the VAE",
        ),
    )
    _check_widths(part, layout.widths)
    if len(layout.widths) != 4:
        raise _LayoutError(f"its VAE has {len(layout.widths)} levels instead of 4")
    return layout, part.shape("post_quant_conv.weight", 4)[1]


def _check_widths(part: _Part, widths: Iterable[int]) -> None:
    for width in widths:
        if width % GROUPS:
            raise _LayoutError(f"its {part.title} has a width of {width}, no multiple of {GROUPS}")


def _text_width(part: _Part) -> int:
    width = part.shape("text_model.embeddings.token_embedding.weight", 2)[1]
    if width % text_heads(width):
        raise _LayoutError(f"its text encoder has a width of {width}, no multiple of its heads")
    return width
