"""Text encoding: token ids to the hidden states that the U-Net attends to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..errors import ConfigError


def text_body(text_encoder: nn.Module) -> Any:
    """The module that holds `embeddings` and `encoder`: since transformers 5 the model itself."""
    return getattr(text_encoder, "text_model", text_encoder)


def encode_ids(text_encoder: nn.Module, ids: Tensor, clip_skip: int) -> Tensor:
    """Hidden states (B, 77, C) after layer -clip_skip and the final layer norm, as SD1 does.

    ids: (B, 77). clip_skip: 1 is the last layer. Gradients flow. Raises ConfigError when there are
    fewer layers.
    """
    body = text_body(text_encoder)
    layers = len(body.encoder.layers)
    if not 1 <= clip_skip <= layers:
        raise ConfigError(
            f"base.clip_skip is {clip_skip}; this base model's text encoder has {layers} layers: "
            f"give 1 (the last) to {layers}"
        )
    if not len(ids):
        return body.final_layer_norm.weight.new_zeros((*ids.shape, body.config.hidden_size))
    with _without_last(body.encoder, clip_skip - 1):
        return text_encoder(ids).last_hidden_state


@contextmanager
def _without_last(encoder: Any, count: int) -> Iterator[None]:
    """Leave the last layers out, so that the final norm follows, in every transformers."""
    layers = encoder.layers
    encoder.layers = layers[: len(layers) - count] if count else layers
    try:
        yield
    finally:
        encoder.layers = layers
