"""Phase 1 of a training: every picture and, where its encoder stays frozen, every caption once."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..config.recipe import Recipe
from ..data.batches import BatchPlan
from ..data.buckets import BucketPlan
from ..data.cache import encode_captions, encode_latents
from ..data.items import Dataset
from ..events import OnEvent, StopFlag
from ..models.base_model import BaseModel
from .placement import on_device
from .trainer import TrainingData


class Pictures(NamedTuple):
    """A dataset with its buckets and the batches of every step."""

    dataset: Dataset
    buckets: BucketPlan
    batches: BatchPlan


def encode_dataset(
    base: BaseModel,
    recipe: Recipe,
    pictures: Pictures,
    on_event: OnEvent,
    stop: StopFlag,
) -> TrainingData | None:
    """Latents and, unless the text encoder is trained, contexts of the whole dataset.

    The encoders are on the run's device only while they work. None when `stop()` became true.
    """
    dataset = pictures.dataset
    captions = dataset.captions
    contexts = None
    if not recipe.network.text_encoder:
        with on_device(base.text_encoder, base.device), torch.no_grad():
            contexts = encode_captions(captions, _text_encoder(base, recipe), on_event, stop)
        if contexts is None:
            return None
    with on_device(base.vae, base.device), torch.no_grad():
        latents = encode_latents(dataset, pictures.buckets, base.encode_images, on_event, stop)
    if latents is None:
        return None
    return TrainingData(
        batches=pictures.batches, latents=latents, captions=captions, contexts=contexts
    )


def _text_encoder(base: BaseModel, recipe: Recipe) -> Callable[[list[str]], Tensor]:
    return lambda captions: base.encode_text(captions, recipe.base.clip_skip)
