"""Encoding a dataset once, before training: pictures to latents, captions to embeddings."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from ..errors import DatasetError
from ..events import OnEvent, PhaseProgress, PhaseStarted, StopFlag, ignore, never
from .buckets import BucketPlan
from .images import read_pixels
from .items import Dataset, ImageItem
from .listing import legible

LatentCache = list[tuple[Tensor, Tensor]]
TextCache = dict[str, tuple[Tensor, Tensor | None]]
EncodeImages = Callable[[Tensor], tuple[Tensor, Tensor]]
EncodeText = Callable[[list[str]], tuple[Tensor, Tensor | None]]

PIXELS_AT_ONCE = 4 * 512 * 512
MOST_AT_ONCE = 16


def encode_latents(
    dataset: Dataset,
    plan: BucketPlan,
    encode: EncodeImages,
    on_event: OnEvent = ignore,
    stop: StopFlag = never,
) -> LatentCache | None:
    """The (mean, std) of every item's latents, float32 on the CPU; None where stopped.

    encode: pixels (B, 3, H, W) in [-1, 1] to mean and std, each (B, C, h, w). Pictures of one
    bucket go through it together, as many as four of 512 x 512. Raises DatasetError for a picture
    that can't be read any more or whose latents aren't finite.
    """
    encoded: dict[int, tuple[Tensor, Tensor]] = {}
    total = len(dataset.items)
    on_event(PhaseStarted(name="latents", total=total))
    for bucket in plan.buckets:
        size = (bucket.width, bucket.height)
        at_once = max(1, min(MOST_AT_ONCE, PIXELS_AT_ONCE // (bucket.width * bucket.height)))
        for start in range(0, len(bucket.fits), at_once):
            if stop():
                return None
            fits = bucket.fits[start : start + at_once]
            items = [dataset.items[fit.item] for fit in fits]
            pixels = torch.stack(
                [read_pixels(item, fit, size) for item, fit in zip(items, fits, strict=True)]
            )
            means, stds = (_kept(tensor) for tensor in encode(pixels))
            _refuse_broken(items, means, stds)
            for fit, mean, std in zip(fits, means, stds, strict=True):
                encoded[fit.item] = (mean.clone(), std.clone())
            on_event(PhaseProgress(name="latents", done=len(encoded), total=total))
    return [encoded[index] for index in range(total)]


def encode_captions(
    captions: Iterable[str],
    encode: EncodeText,
    on_event: OnEvent = ignore,
    stop: StopFlag = never,
) -> TextCache | None:
    """What every different caption is encoded to, float32 on the CPU; None where stopped.

    encode: B captions to contexts (B, tokens, C) and pooled vectors (B, P), None where there are
    none. Stored are (tokens, C) and (P,).
    """
    different = list(dict.fromkeys(captions))
    encoded: TextCache = {}
    on_event(PhaseStarted(name="text", total=len(different)))
    for start in range(0, len(different), MOST_AT_ONCE):
        if stop():
            return None
        batch = different[start : start + MOST_AT_ONCE]
        contexts, pooled = encode(batch)
        kept, vectors = _kept(contexts), None if pooled is None else _kept(pooled)
        for row, caption in enumerate(batch):
            vector = None if vectors is None else vectors[row].clone()
            encoded[caption] = (kept[row].clone(), vector)
        on_event(PhaseProgress(name="text", done=len(encoded), total=len(different)))
    return encoded


def _kept(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32)


def _refuse_broken(items: list[ImageItem], means: Tensor, stds: Tensor) -> None:
    """Training on what a half-precision VAE overflowed to would be training on nothing."""
    for item, mean, std in zip(items, means, stds, strict=True):
        if not (torch.isfinite(mean).all() and torch.isfinite(std).all()):
            raise DatasetError(
                f"{legible(item.path)}: its latents aren't finite numbers; if other pictures "
                "fail too, set memory.precision to fp32 or bf16, else take this picture out"
            )
