"""Widths and depths of a checkpoint's networks, read from its tensors' shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import count

from ..errors import CheckpointError
from .checkpoint import Checkpoint, Shapes
from .families import SD1, SD2, SDXL, Family
from .keymaps import TEXT_MODEL, TEXT_PROJECTION, TextLayout, UNetLayout, VaeLayout
from .parts import TITLES, PartTensors

SD1_HEADS = 8  # in every layer of SD1, whatever its width
HEAD_SIZE = 64  # channels, in SD2's and SDXL's U-Nets and in every text encoder
GROUPS = 32  # of every group norm in U-Net and VAE
SIZE_CHANNELS = 256  # of each of SDXL's six time ids
TIME_IDS = 6
SD2_LAYERS = 23  # of its text encoder, as far as Stable Diffusion reads it


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """All that is needed to build the networks of a checkpoint.

    texts: by part, "text_encoder" and in SDXL "text_encoder_2". context: channels of the text that
    the U-Net attends to. latents: channels of the VAE's latents.
    """

    family: Family
    unet: UNetLayout
    vae: VaeLayout
    texts: Mapping[str, TextLayout]
    context: int
    latents: int


def read_layout(checkpoint: Checkpoint, family: Family, parts: Mapping[str, PartTensors]) -> Layout:
    """Read the layout of a checkpoint of `family`.

    Raises CheckpointError where a part is missing or makes no sense.
    """
    try:
        own = {name: _part(name, tensors, family) for name, tensors in parts.items()}
        unet, context = _unet(own["unet"], family)
        vae, latents = _vae(own["vae"])
        texts = {
            name: _text(part, family, name) for name, part in own.items() if name.startswith("text")
        }
        _check_texts(texts, context, unet, family)
        return Layout(
            family=family, unet=unet, vae=vae, texts=texts, context=context, latents=latents
        )
    except _LayoutError as error:
        raise CheckpointError(
            f"{checkpoint.path}: {error}; it is damaged, or not laid out as {family.title}"
        ) from error


def text_heads(width: int) -> int:
    """Attention heads of a text encoder of this width: 64 channels each, one at least."""
    return max(1, width // HEAD_SIZE)


class _LayoutError(Exception):
    """What does not fit, without the file's name."""


@dataclass(frozen=True, slots=True)
class _Part:
    title: str
    shapes: Shapes
    is_open_clip: bool = False

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


def _part(name: str, tensors: PartTensors, family: Family) -> _Part:
    if not tensors:
        prefixes = {"unet": "model.diffusion_model.", "vae": "first_stage_model."}
        prefix = {**prefixes, **family.text_prefixes}[name]
        raise _LayoutError(f"it has no {TITLES[name]} (no tensor begins with {prefix!r})")
    shapes = {inside: stored.shape for inside, stored in tensors.items()}
    is_open_clip = any(stored.place.name for stored in tensors.values())
    return _Part(TITLES[name], shapes, is_open_clip)


def _count(shapes: Shapes, pattern: str) -> int:
    """How many of the names `pattern` with 0, 1, 2, ... are there without a gap."""
    return next(number for number in count() if pattern.format(number) not in shapes)


def _same(values: Iterable[int], what: str) -> int:
    found = sorted(set(values))
    if len(found) != 1:
        raise _LayoutError(f"{what} differ: {found}")
    return found[0]


def _unet(part: _Part, family: Family) -> tuple[UNetLayout, int]:
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
    widths = tuple(_same((w for w, _ in level), "widths in one level") for level in levels)
    heads = tuple(SD1_HEADS if family is SD1 else max(1, width // HEAD_SIZE) for width in widths)
    label = "label_emb.0.0.weight"
    layout = UNetLayout(
        widths=widths,
        resnets=_same((len(level) for level in levels), "residual blocks per level"),
        depths=tuple(_same((d for _, d in level), "depths in one level") for level in levels),
        middle_depth=_depth(part, "middle_block.1"),
        heads=heads,
        linear=len(part.shapes.get("middle_block.1.proj_in.weight", ())) == 2,
        label=part.shape(label, 2)[1] if label in part.shapes else 0,
    )
    _check_unet(part, layout)
    context = part.shape("middle_block.1.transformer_blocks.0.attn2.to_k.weight", 2)[1]
    return layout, context


def _check_unet(part: _Part, layout: UNetLayout) -> None:
    _check_widths(part, layout.widths)
    if not layout.middle_depth or len(layout.widths) < 2:
        raise _LayoutError("its U-Net has no attention in the middle, or one level only")
    deepest = layout.depths[-1] or 1
    if layout.middle_depth != deepest:
        raise _LayoutError(
            f"its U-Net has {layout.middle_depth} transformer blocks in the middle instead of "
            f"{deepest}: a pruned or distilled model, which can't be trained yet"
        )


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


def _text(part: _Part, family: Family, name: str) -> TextLayout:
    """A text encoder; SD2's without its last layer, which Stable Diffusion never reads.

    open_clip's layout has that layer, but in files converted from diffusers' 23; transformers'
    layout lacks it.
    """
    width = part.shape(f"{TEXT_MODEL}embeddings.token_embedding.weight", 2)[1]
    if width % text_heads(width):
        raise _LayoutError(f"its {part.title} has a width of {width}, no multiple of its heads")
    layers = _count(part.shapes, TEXT_MODEL + "encoder.layers.{}.layer_norm1.weight")
    if family is SD2 and layers != SD2_LAYERS and (part.is_open_clip or layers > SD2_LAYERS):
        layers -= 1
    pooled = name == "text_encoder_2"
    return TextLayout(
        layers=layers,
        width=width,
        inner=part.width(f"{TEXT_MODEL}encoder.layers.0.mlp.fc1.weight"),
        projection=part.width(TEXT_PROJECTION) if pooled else 0,
        activation="gelu" if pooled or family is SD2 else "quick_gelu",
    )


def _check_texts(
    texts: Mapping[str, TextLayout], context: int, unet: UNetLayout, family: Family
) -> None:
    width = sum(text.width for text in texts.values())
    if width != context:
        encoders = "text encoder has" if len(texts) == 1 else "text encoders have"
        raise _LayoutError(f"its {encoders} {width} channels, its U-Net takes {context}")
    if min(text.layers for text in texts.values()) < 1:
        raise _LayoutError("its text encoder has too few layers")
    pooled = sum(text.projection for text in texts.values())
    if family is SDXL and unet.label != pooled + TIME_IDS * SIZE_CHANNELS:
        raise _LayoutError(
            f"its U-Net takes {unet.label} channels beside the text, where its text encoder gives "
            f"{pooled} and sizes {TIME_IDS * SIZE_CHANNELS}"
        )
