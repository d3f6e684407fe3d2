"""Phase 1 of a training: every picture and, where its encoder stays frozen, every caption once."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import NamedTuple

import torch

from ..config.recipe import Recipe
from ..data.batches import BatchPlan
from ..data.buckets import BucketPlan
from ..data.cache import encode_captions, encode_latents
from ..data.items import Dataset
from ..events import OnEvent, StopFlag
from ..models.base_model import BaseModel
from ..models.text import Condition, TextOptions
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
    """Latents and, unless the text encoders are trained, conditions of the whole dataset.

    The encoders are on the run's device only while they work. None when `stop()` became true.
    """
    dataset = pictures.dataset
    captions = dataset.captions
    conditions = None
    if not recipe.network.text_encoder:
        with ExitStack() as borrowed, torch.no_grad():
            for encoder in base.text_encoders.values():
                borrowed.enter_context(on_device(encoder, base.device))
            conditions = encode_captions(captions, _text_encoder(base, recipe), on_event, stop)
        if conditions is None:
            return None
    with on_device(base.vae, base.device), torch.no_grad():
        latents = encode_latents(dataset, pictures.buckets, base.encode_images, on_event, stop)
    if latents is None:
        return None
    return TrainingData(
        batches=pictures.batches,
        latents=latents,
        captions=captions,
        conditions=conditions,
        time_ids=time_ids(pictures),
    )


def time_ids(pictures: Pictures) -> torch.Tensor:
    """What SDXL is told of every picture's size, (N, 6), int64, pixels.

    Original height and width, as the file has it; top and left of what was cut off after resizing;
    height and width of the bucket. Source: Podell et al. 2023, section 2.2.
    """
    items = pictures.dataset.items
    found = torch.zeros(len(items), 6, dtype=torch.int64)
    for bucket in pictures.buckets.buckets:
        for fit in bucket.fits:
            own = items[fit.item]
            target = bucket.height, bucket.width
            ids = own.height, own.width, fit.crop_top, fit.crop_left, *target
            found[fit.item] = torch.tensor(ids)
    return found


def _text_encoder(base: BaseModel, recipe: Recipe) -> Callable[[list[str]], Condition]:
    options = TextOptions.of(recipe)
    return lambda captions: base.encode_text(captions, options)
