"""Text encoding: captions to the hidden states that the U-Net attends to, for every family.

Source: what diffusers' and Stability's pipelines read of the encoders; long and weighted captions
as kohya sd-scripts `library/strategy_sd.py` and `strategy_sdxl.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..config.recipe import Recipe
from ..errors import ConfigError
from .tokenizer import END, ROOM, ClipTokenizer, Tokens

MOST_CHUNKS = 3


class Condition(NamedTuple):
    """What the U-Net is told of captions.

    context: (B, T, C), T = 75 * chunks + 2, C of all text encoders together. pooled: (B, P), one
    vector for a caption; SDXL only.
    """

    context: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TextUse:
    """How a family uses one of its text encoders.

    clip_skip: the layer that is read, counted from the end; 1 is the last. final_norm: whether the
    final layer norm follows. pad: the id that fills up. pooled: whether this encoder gives the
    pooled vector. user_clip_skip: whether base.clip_skip takes the place of clip_skip.
    pad_empty_chunks: whether a chunk that the caption does not reach begins with the state of its
    padding, not with that of its END.
    """

    clip_skip: int = 1
    final_norm: bool = True
    pad: int = END
    pooled: bool = False
    user_clip_skip: bool = False
    pad_empty_chunks: bool = False


TEXT_USES: dict[str, tuple[TextUse, ...]] = {
    "sd1": (TextUse(user_clip_skip=True),),
    # built with 23 of its 24 layers, so that its last one is the last but one of open_clip's
    "sd2": (TextUse(pad=0, pad_empty_chunks=True),),
    "sdxl": (
        TextUse(clip_skip=2, final_norm=False),
        TextUse(clip_skip=2, final_norm=False, pad=0, pooled=True),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions:
    """How captions are read: the layer (SD1), chunks of 75 tokens, brackets as weights."""

    clip_skip: int = 1
    chunks: int = 1
    weighted: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.chunks <= MOST_CHUNKS:
            raise ConfigError(
                f"captions are given {self.chunks} chunks of {ROOM} tokens; it must be 1 to "
                f"{MOST_CHUNKS}, for {ROOM} to {MOST_CHUNKS * ROOM} tokens"
            )

    @classmethod
    def of(cls, recipe: Recipe) -> TextOptions:
        """How a recipe's captions are read; its previews read their prompts the same way."""
        return cls(
            clip_skip=recipe.base.clip_skip,
            chunks=recipe.dataset.caption_tokens // ROOM,
            weighted=recipe.dataset.weighted_captions,
        )


def takes_clip_skip(family: str) -> bool:
    """Whether base.clip_skip has a meaning for this family; the others read a fixed layer."""
    return any(use.user_clip_skip for use in TEXT_USES[family])


def encode_captions(
    encoders: Sequence[nn.Module],
    uses: Sequence[TextUse],
    tokenizer: ClipTokenizer,
    captions: list[str],
    options: TextOptions,
) -> Condition:
    """Condition of captions, of which there may be none; gradients flow.

    encoders: transformers' CLIPTextModel, or CLIPTextModelWithProjection where the use is `pooled`;
    one for each of uses. Contexts lie beside each other along the channels, in the encoders' dtype.
    Weights multiply the hidden states and leave the pooled vector alone. Raises ConfigError when
    there are fewer layers than base.clip_skip needs.
    """
    parts = []
    for encoder, use in zip(encoders, uses, strict=True):
        tokens = tokenizer.encode_chunks(
            captions, pad=use.pad, chunks=options.chunks, weighted=options.weighted
        )
        clip_skip = options.clip_skip if use.user_clip_skip else use.clip_skip
        parts.append(_encode_tokens(encoder, tokens, use, clip_skip))
    pooled = [part.pooled for part in parts if part.pooled is not None]
    return Condition(
        torch.cat([part.context for part in parts], dim=-1), pooled[0] if pooled else None
    )


def encode_ids(text_encoder: nn.Module, ids: Tensor, clip_skip: int) -> Tensor:
    """Hidden states (B, 77, C) after layer -clip_skip and the final layer norm, as SD1 does.

    ids: (B, 77). clip_skip: 1 is the last layer. Gradients flow. Raises ConfigError when there are
    fewer layers.
    """
    (use,) = TEXT_USES["sd1"]
    return _encode_tokens(text_encoder, Tokens(ids[:, None]), use, clip_skip).context


def text_body(text_encoder: nn.Module) -> Any:
    """The module that holds `embeddings` and `encoder`: since transformers 5 the model itself."""
    return getattr(text_encoder, "text_model", text_encoder)


def _encode_tokens(encoder: Any, tokens: Tokens, use: TextUse, clip_skip: int) -> Condition:
    """Context and pooled vector of one encoder."""
    body = text_body(encoder)
    if use.user_clip_skip:
        _require_layers(body, clip_skip)
    weight = body.final_layer_norm.weight
    ids = tokens.ids.to(weight.device)
    captions, chunks, _ = ids.shape
    if not captions:
        context = weight.new_zeros((0, chunks * ROOM + 2, body.config.hidden_size))
        none = weight.new_zeros((0, body.config.projection_dim))
        return Condition(context, none if use.pooled else None)
    with _reading(body.encoder, clip_skip - 1, to_the_end=use.pooled) as read:
        last = body(ids.flatten(0, 1))[0]
    states = body.final_layer_norm(read[0]) if use.final_norm else read[0]
    states = states.unflatten(0, (captions, chunks))
    if use.pad_empty_chunks:
        states = _padded_beginnings(states, ids)
    context = _stitch(states)
    if tokens.weights is not None:
        weighted = context * _stitch(tokens.weights.to(weight.device)[..., None])
        context = weighted.to(context.dtype)
    pooled = None
    if use.pooled:
        first = last.unflatten(0, (captions, chunks))[:, 0]
        pooled = encoder.text_projection(_at_end(first, ids[:, 0]))
    return Condition(context, pooled)


def _require_layers(body: Any, clip_skip: int) -> None:
    layers = len(body.encoder.layers)
    if not 1 <= clip_skip <= layers:
        raise ConfigError(
            f"base.clip_skip is {clip_skip}; this base model's text encoder has {layers} layers: "
            f"give 1 (the last) to {layers}"
        )


@contextmanager
def _reading(encoder: Any, skipped: int, *, to_the_end: bool) -> Iterator[list[Tensor]]:
    """Give the states (rows, 77, C) in front of the last `skipped` layers, one for each call.

    The encoder runs with fewer layers, so that nothing is computed in vain; `to_the_end`: then it
    runs once more with the rest, and its caller gets the last layer's states. Cutting the list is
    right in every transformers, with adapters inside the layers, and under checkpointing, inside
    which a tensor that a layer's own hook takes has no gradient.
    """
    layers = encoder.layers
    kept = len(layers) - skipped
    read: list[Tensor] = []

    def note(module: Any, _: Any, inputs: dict[str, Any], output: Any) -> Any:
        read.append(output[0])
        if not to_the_end or not skipped:
            return output
        module.layers = layers[kept:]
        return module.forward(**{**inputs, "inputs_embeds": output[0]})

    hook = encoder.register_forward_hook(note, with_kwargs=True)
    encoder.layers = layers[:kept]
    try:
        yield read
    finally:
        encoder.layers = layers
        hook.remove()


def _stitch(states: Tensor) -> Tensor:
    """One row (B, 75 * chunks + 2, C) of (B, chunks, 77, C), without the ends between chunks."""
    middle = states[:, :, 1:-1].flatten(1, 2)
    return torch.cat([states[:, 0, :1], middle, states[:, -1, -1:]], dim=1)


def _padded_beginnings(states: Tensor, ids: Tensor) -> Tensor:
    """States (B, chunks, 77, C) with padding in the place of the END of empty chunks but the first.

    As if the caption's row went on with padding. Intended by sd-scripts, whose own comparison is
    of an id with the token's text.
    """
    empty = ids[:, :, 1] == END
    empty[:, 0] = False
    second = torch.where(empty[..., None, None], states[:, :, 2:3], states[:, :, 1:2])
    return torch.cat([states[:, :, :1], second, states[:, :, 2:]], dim=2)


def _at_end(states: Tensor, ids: Tensor) -> Tensor:
    """States (B, C) of (B, 77, C) at each row's first END."""
    place = (ids == END).int().argmax(dim=-1)
    return states[torch.arange(len(ids), device=ids.device), place]
