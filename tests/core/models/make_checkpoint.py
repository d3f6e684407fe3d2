"""Writes checkpoints of Stable Diffusion's layouts with random weights, full-size or thin.

Names and shapes are spelled out here after the modules of CompVis/latent-diffusion, Stability-AI's
generative-models and open_clip, and not taken from the package's own key maps, so that they test
those.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

CODES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
Shaped = tuple[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sd1Shape:
    """Widths and depths of one checkpoint; the defaults are Stable Diffusion 1.5's.

    attention: transformer blocks of each level. context, label: channels of the text
    and of the vector beside it, 0 for those of `text` and for none.
    """

    unet: tuple[int, ...] = (320, 640, 1280, 1280)
    attention: tuple[int, ...] = (1, 1, 1, 0)
    linear: bool = False
    context: int = 0
    label: int = 0
    unet_resnets: int = 2
    text: int = 768
    text_inner: int = 3072
    text_layers: int = 12
    vae: tuple[int, ...] = (128, 256, 512, 512)
    vae_resnets: int = 2


FULL = Sd1Shape()
THIN = Sd1Shape(unet=(32, 32, 64, 64), text=64, text_inner=128, text_layers=2, vae=(32, 32, 32, 64))
EMBEDDED_LIKE = Sd1Shape(
    unet=(64, 64, 128, 128),
    text=96,
    text_inner=384,
    text_layers=4,
    vae=(128, 64, 64, 128),
    vae_resnets=1,
)


def sd1_shape(width: int) -> Sd1Shape:
    """Full-size for a U-Net of width 320, otherwise thin: U-Net `width` to 4 x `width`."""
    if width == 320:
        return FULL
    unet = (width, 2 * width, 4 * width, 4 * width)
    return Sd1Shape(
        unet=unet, text=64, text_inner=128, text_layers=2, vae=(32, 32, 64, 64), vae_resnets=1
    )


def sd1_tensors(
    shape: Sd1Shape, seed: int = 0, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """All tensors of a checkpoint by LDM name."""
    chance = torch.Generator().manual_seed(seed)
    return {name: random_weight(name, size, chance).to(dtype) for name, size in sd1_names(shape)}


def write_sd1_checkpoint(
    path: Path,
    width: int = 320,
    seed: int = 0,
    dtype: torch.dtype = torch.float16,
    shape: Sd1Shape | None = None,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a safetensors file, tensor by tensor: a full-size one takes little memory."""
    return write_checkpoint(path, list(sd1_names(shape or sd1_shape(width))), seed, dtype, metadata)


def write_checkpoint(
    path: Path,
    names: list[Shaped],
    seed: int,
    dtype: torch.dtype,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write tensors of these names and shapes."""
    header: dict[str, object] = {"__metadata__": metadata or {}}
    at = 0
    for name, size in names:
        end = at + math.prod(size) * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(size), "data_offsets": [at, end]}
        at = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    chance = torch.Generator().manual_seed(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, size in names:
            weight = random_weight(name, size, chance).to(dtype).contiguous()
            file.write(weight.reshape(-1).view(torch.uint8).numpy().data)
    return path


def random_weight(name: str, size: tuple[int, ...], chance: torch.Generator) -> Tensor:
    """Weights that keep activations near 1: none is zero, norms vary about 1. fp32."""
    weight = torch.randn(size, generator=chance)
    if len(size) == 1:
        return 0.02 * weight if name.endswith("bias") else 1 + 0.1 * weight
    if "embedding" in name:
        return 0.05 * weight
    return weight / math.sqrt(math.prod(size[1:]))


def sd1_names(shape: Sd1Shape) -> Iterator[Shaped]:
    """Names and shapes of all tensors."""
    for prefix, part in (
        ("model.diffusion_model.", _unet(shape)),
        ("first_stage_model.", _vae(shape)),
        ("cond_stage_model.transformer.text_model.", _text(shape)),
    ):
        for name, size in part:
            yield prefix + name, size


def _linear(name: str, inputs: int, outputs: int, bias: bool = True) -> Iterator[Shaped]:
    yield f"{name}.weight", (outputs, inputs)
    if bias:
        yield f"{name}.bias", (outputs,)


def _conv(name: str, inputs: int, outputs: int, side: int = 3) -> Iterator[Shaped]:
    yield f"{name}.weight", (outputs, inputs, side, side)
    yield f"{name}.bias", (outputs,)


def _norm(name: str, width: int) -> Iterator[Shaped]:
    yield f"{name}.weight", (width,)
    yield f"{name}.bias", (width,)


def _unet_resnet(name: str, inputs: int, outputs: int, time: int) -> Iterator[Shaped]:
    yield from _norm(f"{name}.in_layers.0", inputs)
    yield from _conv(f"{name}.in_layers.2", inputs, outputs)
    yield from _linear(f"{name}.emb_layers.1", time, outputs)
    yield from _norm(f"{name}.out_layers.0", outputs)
    yield from _conv(f"{name}.out_layers.3", outputs, outputs)
    if inputs != outputs:
        yield from _conv(f"{name}.skip_connection", inputs, outputs, 1)


def _projection(name: str, width: int, linear: bool) -> Iterator[Shaped]:
    yield from _linear(name, width, width) if linear else _conv(name, width, width, 1)


def _transformer(name: str, width: int, depth: int, shape: Sd1Shape) -> Iterator[Shaped]:
    yield from _norm(f"{name}.norm", width)
    yield from _projection(f"{name}.proj_in", width, shape.linear)
    for number in range(depth):
        block = f"{name}.transformer_blocks.{number}"
        yield from _transformer_block(block, width, shape.context or shape.text)
    yield from _projection(f"{name}.proj_out", width, shape.linear)


def _transformer_block(block: str, width: int, context: int) -> Iterator[Shaped]:
    for attention, inputs in (("attn1", width), ("attn2", context)):
        yield from _linear(f"{block}.{attention}.to_q", width, width, bias=False)
        yield from _linear(f"{block}.{attention}.to_k", inputs, width, bias=False)
        yield from _linear(f"{block}.{attention}.to_v", inputs, width, bias=False)
        yield from _linear(f"{block}.{attention}.to_out.0", width, width)
    yield from _linear(f"{block}.ff.net.0.proj", width, 8 * width)
    yield from _linear(f"{block}.ff.net.2", 4 * width, width)
    for number in (1, 2, 3):
        yield from _norm(f"{block}.norm{number}", width)


def _unet(shape: Sd1Shape) -> Iterator[Shaped]:
    first, time = shape.unet[0], 4 * shape.unet[0]
    yield from _linear("time_embed.0", first, time)
    yield from _linear("time_embed.2", time, time)
    if shape.label:
        yield from _linear("label_emb.0.0", shape.label, time)
        yield from _linear("label_emb.0.2", time, time)
    yield from _conv("input_blocks.0.0", 4, first)
    channels, skips, number = first, [first], 1
    last = len(shape.unet) - 1
    for level, width in enumerate(shape.unet):
        for _ in range(shape.unet_resnets):
            yield from _unet_resnet(f"input_blocks.{number}.0", channels, width, time)
            depth = shape.attention[level]
            if depth:
                yield from _transformer(f"input_blocks.{number}.1", width, depth, shape)
            channels, number = width, number + 1
            skips.append(width)
        if level < last:
            yield from _conv(f"input_blocks.{number}.0.op", width, width)
            number += 1
            skips.append(width)
    yield from _unet_resnet("middle_block.0", channels, channels, time)
    yield from _transformer("middle_block.1", channels, shape.attention[last] or 1, shape)
    yield from _unet_resnet("middle_block.2", channels, channels, time)
    number = 0
    for level, width in reversed(list(enumerate(shape.unet))):
        for n in range(shape.unet_resnets + 1):
            block = f"output_blocks.{number}"
            yield from _unet_resnet(f"{block}.0", channels + skips.pop(), width, time)
            depth = shape.attention[level]
            if depth:
                yield from _transformer(f"{block}.1", width, depth, shape)
            if level and n == shape.unet_resnets:
                yield from _conv(f"{block}.{2 if depth else 1}.conv", width, width)
            channels, number = width, number + 1
    yield from _norm("out.0", first)
    yield from _conv("out.2", first, 4)


def _vae_resnet(name: str, inputs: int, outputs: int) -> Iterator[Shaped]:
    yield from _norm(f"{name}.norm1", inputs)
    yield from _conv(f"{name}.conv1", inputs, outputs)
    yield from _norm(f"{name}.norm2", outputs)
    yield from _conv(f"{name}.conv2", outputs, outputs)
    if inputs != outputs:
        yield from _conv(f"{name}.nin_shortcut", inputs, outputs, 1)


def _vae_middle(half: str, width: int) -> Iterator[Shaped]:
    yield from _vae_resnet(f"{half}.mid.block_1", width, width)
    yield from _norm(f"{half}.mid.attn_1.norm", width)
    for name in ("q", "k", "v", "proj_out"):
        yield from _conv(f"{half}.mid.attn_1.{name}", width, width, 1)
    yield from _vae_resnet(f"{half}.mid.block_2", width, width)


def _vae(shape: Sd1Shape) -> Iterator[Shaped]:
    channels, deepest = shape.vae[0], shape.vae[-1]
    yield from _conv("encoder.conv_in", 3, channels)
    for level, width in enumerate(shape.vae):
        for n in range(shape.vae_resnets):
            yield from _vae_resnet(f"encoder.down.{level}.block.{n}", channels, width)
            channels = width
        if level < len(shape.vae) - 1:
            yield from _conv(f"encoder.down.{level}.downsample.conv", width, width)
    yield from _vae_middle("encoder", deepest)
    yield from _norm("encoder.norm_out", deepest)
    yield from _conv("encoder.conv_out", deepest, 8)
    yield from _conv("decoder.conv_in", 4, deepest)
    yield from _vae_middle("decoder", deepest)
    for level, width in reversed(list(enumerate(shape.vae))):
        for n in range(shape.vae_resnets + 1):
            yield from _vae_resnet(f"decoder.up.{level}.block.{n}", channels, width)
            channels = width
        if level:
            yield from _conv(f"decoder.up.{level}.upsample.conv", width, width)
    yield from _norm("decoder.norm_out", channels)
    yield from _conv("decoder.conv_out", channels, 3)
    yield from _conv("quant_conv", 8, 8, 1)
    yield from _conv("post_quant_conv", 4, 4, 1)


def _text(shape: Sd1Shape) -> Iterator[Shaped]:
    width = shape.text
    yield "embeddings.token_embedding.weight", (49408, width)
    yield "embeddings.position_embedding.weight", (77, width)
    for n in range(shape.text_layers):
        layer = f"encoder.layers.{n}"
        for name in ("q", "k", "v", "out"):
            yield from _linear(f"{layer}.self_attn.{name}_proj", width, width)
        yield from _norm(f"{layer}.layer_norm1", width)
        yield from _linear(f"{layer}.mlp.fc1", width, shape.text_inner)
        yield from _linear(f"{layer}.mlp.fc2", shape.text_inner, width)
        yield from _norm(f"{layer}.layer_norm2", width)
    yield from _norm("final_layer_norm", width)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenClipShape:
    """Widths and depth of a text encoder in open_clip's layout."""

    width: int
    inner: int
    layers: int
    projection: int


THIN_SD2_TEXT = OpenClipShape(width=128, inner=192, layers=3, projection=128)
THIN_SD2 = Sd1Shape(
    unet=(64, 64, 128, 128), unet_resnets=1, linear=True, text=128, vae=THIN.vae, vae_resnets=1
)
THIN_SDXL_TEXT = OpenClipShape(width=128, inner=192, layers=3, projection=96)
THIN_SDXL = Sd1Shape(
    unet=(64, 64, 128),
    attention=(0, 1, 2),
    linear=True,
    context=64 + 128,
    label=96 + 6 * 256,  # the pooled vector, and each of the time ids
    text=64,
    text_inner=128,
    text_layers=3,
    vae=THIN.vae,
    vae_resnets=1,
)


FULL_SD2 = Sd1Shape(linear=True, text=1024)
FULL_SD2_TEXT = OpenClipShape(width=1024, inner=4096, layers=24, projection=1024)
FULL_SDXL = Sd1Shape(
    unet=(320, 640, 1280), attention=(0, 2, 10), linear=True, context=2048, label=2816
)
FULL_SDXL_TEXT = OpenClipShape(width=1280, inner=5120, layers=32, projection=1280)


def sd2_names(shape: Sd1Shape = THIN_SD2, text: OpenClipShape = THIN_SD2_TEXT) -> list[Shaped]:
    """Stable Diffusion 2; its last layer of text and the projection are never read."""
    return [*_both(shape), *_prefixed("cond_stage_model.model.", _open_clip(text))]


def sdxl_names(shape: Sd1Shape = THIN_SDXL, text: OpenClipShape = THIN_SDXL_TEXT) -> list[Shaped]:
    """Stable Diffusion XL; `shape` holds its first text encoder, `text` is its second."""
    return [
        *_both(shape),
        *_prefixed("conditioner.embedders.0.transformer.text_model.", _text(shape)),
        *_prefixed("conditioner.embedders.1.model.", _open_clip(text)),
    ]


def tensors_of(names: list[Shaped], seed: int) -> dict[str, Tensor]:
    """What `write_checkpoint` writes in fp32."""
    chance = torch.Generator().manual_seed(seed)
    return {name: random_weight(name, size, chance) for name, size in names}


def _both(shape: Sd1Shape) -> Iterator[Shaped]:
    yield from _prefixed("model.diffusion_model.", _unet(shape))
    yield from _prefixed("first_stage_model.", _vae(shape))


def _prefixed(prefix: str, part: Iterator[Shaped]) -> Iterator[Shaped]:
    for name, size in part:
        yield prefix + name, size


def _open_clip(shape: OpenClipShape) -> Iterator[Shaped]:
    width = shape.width
    yield "positional_embedding", (77, width)
    yield "token_embedding.weight", (49408, width)
    yield "text_projection", (width, shape.projection)
    yield "logit_scale", ()
    for n in range(shape.layers):
        block = f"transformer.resblocks.{n}"
        yield from _norm(f"{block}.ln_1", width)
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from _linear(f"{block}.attn.out_proj", width, width)
        yield from _norm(f"{block}.ln_2", width)
        yield from _linear(f"{block}.mlp.c_fc", width, shape.inner)
        yield from _linear(f"{block}.mlp.c_proj", shape.inner, width)
    yield from _norm("ln_final", width)
