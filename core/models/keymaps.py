"""Tensor names of Stable Diffusion's parts: LDM's (single files) to diffusers' and transformers'.

Every map is relative to its part (`UNET_PREFIX` and so on stand before it in a single file) and
complete: it holds each tensor of a model of that layout once, so that whatever is missing or left
over can be named. Renames and views only: nothing is copied. Source of the names:
CompVis/latent-diffusion `openaimodel.py` and `model.py`, Stability-AI/generative-models, diffusers
`UNet2DConditionModel` and `AutoencoderKL`, transformers `CLIPTextModel`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

UNET_PREFIX = "model.diffusion_model."
VAE_PREFIX = "first_stage_model."
TEXT_MODEL = "text_model."
TEXT_PROJECTION = "text_projection.weight"

Pair = tuple[str, str]  # (LDM name, diffusers name)

_RESNET = (
    ("in_layers.0", "norm1"),
    ("in_layers.2", "conv1"),
    ("emb_layers.1", "time_emb_proj"),
    ("out_layers.0", "norm2"),
    ("out_layers.3", "conv2"),
)
_VAE_RESNET = (("norm1", "norm1"), ("conv1", "conv1"), ("norm2", "norm2"), ("conv2", "conv2"))
_VAE_ATTENTION = (
    ("norm", "group_norm"),
    ("q", "to_q"),
    ("k", "to_k"),
    ("v", "to_v"),
    ("proj_out", "to_out.0"),
)
_TRANSFORMER_ENDS = ("norm", "proj_in", "proj_out")
_TRANSFORMER_BIASED = (
    *("norm1", "norm2", "norm3", "attn1.to_out.0", "attn2.to_out.0"),
    *("ff.net.0.proj", "ff.net.2"),
)
_TRANSFORMER_UNBIASED = tuple(f"attn{n}.to_{kind}" for n in (1, 2) for kind in "qkv")
_TEXT_LAYER = (
    *(f"self_attn.{kind}_proj" for kind in ("q", "k", "v", "out")),
    *("layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"),
)


_OPEN_CLIP_LAYER = (
    ("self_attn.out_proj", "attn.out_proj"),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)


class OpenClip(NamedTuple):
    """Where open_clip has a tensor: its name there, and which view of it.

    third: 0 to 2, that third of the rows; None for all. transposed: rows are columns.
    """

    name: str
    third: int | None = None
    transposed: bool = False

    def view(self, stored: Tensor) -> Tensor:
        """The tensor as transformers has it, over the same storage."""
        if self.third is not None:
            return stored.chunk(3)[self.third]
        return stored.t() if self.transposed else stored

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """The view's shape, of the stored one's."""
        if self.third is not None:
            return (stored[0] // 3, *stored[1:]) if stored and stored[0] % 3 == 0 else ()
        return stored[::-1] if self.transposed else stored


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetLayout:
    """Depths and widths of a U-Net.

    widths: channels of each level, outermost first. resnets: residual blocks of each level on the
    way down (one more on the way up). depths: transformer blocks in each attention of a level, 0
    for a level without attention. middle_depth: those of the middle block. heads: attention heads
    of each level. linear: whether transformers are entered through linear layers, not convolutions.
    label: channels of the vector that is added to the timestep (SDXL), 0 for none.
    """

    widths: tuple[int, ...] = (320, 640, 1280, 1280)
    resnets: int = 2
    depths: tuple[int, ...] = (1, 1, 1, 0)
    middle_depth: int = 1
    heads: tuple[int, ...] = (8, 8, 8, 8)
    linear: bool = False
    label: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeLayout:
    """Depths and widths of an autoencoder.

    widths: channels of each level, at full resolution first. resnets: residual blocks of each level
    of the encoder (the decoder has one more).
    """

    widths: tuple[int, ...] = (128, 256, 512, 512)
    resnets: int = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLayout:
    """Depth and widths of a CLIP text encoder.

    layers: transformer layers. width: channels. inner: channels inside the feed-forward layers.
    projection: channels of the pooled vector, 0 where none is asked for. activation: of the
    feed-forward layers, in transformers' words.
    """

    layers: int = 12
    width: int = 768
    inner: int = 3072
    projection: int = 0
    activation: str = "quick_gelu"


def unet_map(layout: UNetLayout) -> dict[str, str]:
    """LDM name -> diffusers name of every tensor of a U-Net, without `UNET_PREFIX`."""
    ends = (
        ("time_embed.0", "time_embedding.linear_1"),
        ("time_embed.2", "time_embedding.linear_2"),
        ("input_blocks.0.0", "conv_in"),
        ("out.0", "conv_norm_out"),
        ("out.2", "conv_out"),
    )
    label = (
        ("label_emb.0.0", "add_embedding.linear_1"),
        ("label_emb.0.2", "add_embedding.linear_2"),
    )
    ends = (*ends, *label) if layout.label else ends
    pairs = [*_with_bias(ends), *_down(layout), *_middle(layout), *_up(layout)]
    return dict(pairs)


def vae_map(layout: VaeLayout) -> dict[str, str]:
    """LDM name -> diffusers name of every tensor of an autoencoder, without `VAE_PREFIX`."""
    pairs = [*_with_bias((("quant_conv", "quant_conv"), ("post_quant_conv", "post_quant_conv")))]
    for half in ("encoder", "decoder"):
        ends = (("conv_in", "conv_in"), ("norm_out", "conv_norm_out"), ("conv_out", "conv_out"))
        pairs += _with_bias((f"{half}.{ldm}", f"{half}.{name}") for ldm, name in ends)
        for block in (0, 1):
            place = (f"{half}.mid.block_{block + 1}", f"{half}.mid_block.resnets.{block}")
            pairs += _vae_resnet(place, shortcut=False)
        pairs += _inside((f"{half}.mid.attn_1", f"{half}.mid_block.attentions.0"), _VAE_ATTENTION)
    return dict([*pairs, *_vae_down(layout), *_vae_up(layout)])


def text_names(layout: TextLayout) -> list[str]:
    """transformers' name of every tensor of a CLIP text encoder, with `text_model.` in front."""
    names = ["embeddings.token_embedding.weight", "embeddings.position_embedding.weight"]
    modules = [f"encoder.layers.{n}.{name}" for n in range(layout.layers) for name in _TEXT_LAYER]
    for module in [*modules, "final_layer_norm"]:
        names += [f"{module}.weight", f"{module}.bias"]
    own = [f"{TEXT_MODEL}{name}" for name in names]
    return [*own, TEXT_PROJECTION] if layout.projection else own


def open_clip_map(layout: TextLayout) -> dict[str, OpenClip]:
    """transformers' name -> where open_clip has that tensor, for every tensor of an encoder.

    q, k and v lie below each other in one tensor, and the projection is transposed. Source:
    mlfoundations/open_clip `transformer.py`.
    """
    ends = {
        "embeddings.token_embedding.weight": OpenClip("token_embedding.weight"),
        "embeddings.position_embedding.weight": OpenClip("positional_embedding"),
        "final_layer_norm.weight": OpenClip("ln_final.weight"),
        "final_layer_norm.bias": OpenClip("ln_final.bias"),
    }
    found = {f"{TEXT_MODEL}{name}": place for name, place in ends.items()}
    for n in range(layout.layers):
        own, theirs = f"{TEXT_MODEL}encoder.layers.{n}", f"transformer.resblocks.{n}"
        for kind in ("weight", "bias"):
            for third, name in enumerate("qkv"):
                place = OpenClip(f"{theirs}.attn.in_proj_{kind}", third=third)
                found[f"{own}.self_attn.{name}_proj.{kind}"] = place
            for name, inside in _OPEN_CLIP_LAYER:
                found[f"{own}.{name}.{kind}"] = OpenClip(f"{theirs}.{inside}.{kind}")
    if layout.projection:
        found[TEXT_PROJECTION] = OpenClip("text_projection", transposed=True)
    return found


def open_clip_tensors(layout: TextLayout, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """transformers' tensors in open_clip's layout: the way back of `open_clip_map`.

    q, k and v are joined, which copies them; all others are views.
    """
    thirds: dict[str, list[Tensor]] = {}
    found = {}
    for name, place in open_clip_map(layout).items():
        if place.third is None:
            found[place.name] = tensors[name].t() if place.transposed else tensors[name]
        else:
            thirds.setdefault(place.name, []).append(tensors[name])  # in the order of rows
    return {**found, **{name: torch.cat(rows) for name, rows in thirds.items()}}


def inverted(names: dict[str, str]) -> dict[str, str]:
    """The map the other way round, diffusers name -> LDM name."""
    turned = {theirs: ours for ours, theirs in names.items()}
    if len(turned) != len(names):
        raise ValueError("two tensors have one name: the map can't be turned round")
    return turned


def canonical_text_name(name: str) -> str:
    """A text encoder's name with `text_model.` in front, which transformers 5 leaves out."""
    return name if name.startswith((TEXT_MODEL, TEXT_PROJECTION)) else TEXT_MODEL + name


def is_vae_projection(diffusers_name: str) -> bool:
    """Whether this VAE tensor is a linear's (out, in) where LDM has (out, in, 1, 1)."""
    is_attention = ".attentions." in diffusers_name and ".group_norm." not in diffusers_name
    return is_attention and diffusers_name.endswith(".weight")


def _with_bias(modules: Iterable[Pair]) -> Iterator[Pair]:
    for ldm, name in modules:
        yield f"{ldm}.weight", f"{name}.weight"
        yield f"{ldm}.bias", f"{name}.bias"


def _inside(place: Pair, modules: Iterable[Pair]) -> Iterator[Pair]:
    return _with_bias((f"{place[0]}.{ldm}", f"{place[1]}.{name}") for ldm, name in modules)


def _resnet(place: Pair, *, shortcut: bool) -> Iterator[Pair]:
    yield from _inside(place, _RESNET)
    if shortcut:
        yield from _inside(place, (("skip_connection", "conv_shortcut"),))


def _vae_resnet(place: Pair, *, shortcut: bool) -> Iterator[Pair]:
    yield from _inside(place, _VAE_RESNET)
    if shortcut:
        yield from _inside(place, (("nin_shortcut", "conv_shortcut"),))


def _transformer(place: Pair, depth: int) -> Iterator[Pair]:
    yield from _inside(place, ((name, name) for name in _TRANSFORMER_ENDS))
    for block in (f"transformer_blocks.{n}" for n in range(depth)):
        inside = (f"{place[0]}.{block}", f"{place[1]}.{block}")
        yield from _inside(inside, ((name, name) for name in _TRANSFORMER_BIASED))
        for name in _TRANSFORMER_UNBIASED:
            yield f"{inside[0]}.{name}.weight", f"{inside[1]}.{name}.weight"


def _down(layout: UNetLayout) -> Iterator[Pair]:
    number, channels = 1, layout.widths[0]
    for level, (width, depth) in enumerate(zip(layout.widths, layout.depths, strict=True)):
        block = f"down_blocks.{level}"
        for n in range(layout.resnets):
            place = (f"input_blocks.{number}.0", f"{block}.resnets.{n}")
            yield from _resnet(place, shortcut=channels != width)
            if depth:
                yield from _transformer(
                    (f"input_blocks.{number}.1", f"{block}.attentions.{n}"), depth
                )
            number, channels = number + 1, width
        if level < len(layout.widths) - 1:
            yield from _with_bias(
                ((f"input_blocks.{number}.0.op", f"{block}.downsamplers.0.conv"),)
            )
            number += 1


def _middle(layout: UNetLayout) -> Iterator[Pair]:
    yield from _resnet(("middle_block.0", "mid_block.resnets.0"), shortcut=False)
    yield from _transformer(("middle_block.1", "mid_block.attentions.0"), layout.middle_depth)
    yield from _resnet(("middle_block.2", "mid_block.resnets.1"), shortcut=False)


def _up(layout: UNetLayout) -> Iterator[Pair]:
    number, levels = 0, len(layout.widths)
    for level, depth in enumerate(reversed(layout.depths)):
        block = f"up_blocks.{level}"
        for n in range(layout.resnets + 1):
            place = (f"output_blocks.{number}.0", f"{block}.resnets.{n}")
            # the way up takes the way down's output along, so its input is always the wider one
            yield from _resnet(place, shortcut=True)
            if depth:
                yield from _transformer(
                    (f"output_blocks.{number}.1", f"{block}.attentions.{n}"), depth
                )
            number += 1
        if level < levels - 1:
            upsampler = f"output_blocks.{number - 1}.{2 if depth else 1}.conv"
            yield from _with_bias(((upsampler, f"{block}.upsamplers.0.conv"),))


def _vae_down(layout: VaeLayout) -> Iterator[Pair]:
    channels = layout.widths[0]
    for level, width in enumerate(layout.widths):
        ldm, block = f"encoder.down.{level}", f"encoder.down_blocks.{level}"
        for n in range(layout.resnets):
            place = (f"{ldm}.block.{n}", f"{block}.resnets.{n}")
            yield from _vae_resnet(place, shortcut=channels != width)
            channels = width
        if level < len(layout.widths) - 1:
            yield from _with_bias(((f"{ldm}.downsample.conv", f"{block}.downsamplers.0.conv"),))


def _vae_up(layout: VaeLayout) -> Iterator[Pair]:
    channels, levels = layout.widths[-1], len(layout.widths)
    for level, width in enumerate(reversed(layout.widths)):
        # LDM counts the decoder's levels from full resolution, diffusers from the latents
        ldm, block = f"decoder.up.{levels - 1 - level}", f"decoder.up_blocks.{level}"
        for n in range(layout.resnets + 1):
            place = (f"{ldm}.block.{n}", f"{block}.resnets.{n}")
            yield from _vae_resnet(place, shortcut=channels != width)
            channels = width
        if level < levels - 1:
            yield from _with_bias(((f"{ldm}.upsample.conv", f"{block}.upsamplers.0.conv"),))
