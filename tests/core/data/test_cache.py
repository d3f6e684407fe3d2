"""Encoding once: order, grouping, progress, stopping, broken latents."""

import pytest
import torch

from lora_loop.core.data.buckets import BucketRules, lay_out
from lora_loop.core.data.cache import encode_captions, encode_latents
from lora_loop.core.data.images import read_pixels
from lora_loop.core.data.scan import scan
from lora_loop.core.errors import DatasetError
from lora_loop.core.events import Event, PhaseProgress, PhaseStarted


@pytest.fixture
def dataset(save_picture, tmp_path):
    for index in range(7):
        save_picture(f"1_a/{index}.png", (64, 96) if index % 3 else (128, 64), caption=str(index))
    return scan(tmp_path / "1_a")


def encode(pixels):
    with torch.inference_mode():
        mean = pixels[:, :, ::8, ::8].to(torch.float64)
        return mean, mean.abs() + 1


def test_every_item_gets_its_own_latents(dataset):
    plan = lay_out(dataset.items, 128, BucketRules(step=8))
    batches = []

    def watched(pixels):
        batches.append(len(pixels))
        return encode(pixels)

    events: list[Event] = []
    latents = encode_latents(dataset, plan, watched, events.append)
    assert latents is not None
    assert sorted(batches) == [3, 4]
    for bucket in plan.buckets:
        for fit in bucket.fits:
            pixels = read_pixels(dataset.items[fit.item], fit, (bucket.width, bucket.height))
            mean, std = latents[fit.item]
            assert mean.dtype == std.dtype == torch.float32
            assert torch.equal(mean, pixels[:, ::8, ::8])
            assert torch.equal(std, mean.abs() + 1)
            assert not mean.is_inference()
    assert events[0] == PhaseStarted(name="latents", total=7)
    assert events[-1] == PhaseProgress(name="latents", done=7, total=7)


def test_stopping_gives_nothing(dataset):
    plan = lay_out(dataset.items, 128, BucketRules(step=8))
    calls = []
    assert encode_latents(dataset, plan, encode, calls.append, lambda: len(calls) > 1) is None
    assert len(calls) == 2
    assert (
        encode_captions(["a"], lambda texts: (torch.zeros(1, 2, 3), None), stop=lambda: True)
        is None
    )


def test_latents_that_are_no_numbers_name_the_picture(dataset):
    plan = lay_out(dataset.items, 128, BucketRules(step=8))

    def overflow(pixels):
        mean, std = encode(pixels)
        mean = mean.clone()
        mean[-1, 0, 0, 0] = float("nan")
        return mean, std

    with pytest.raises(DatasetError, match=r"5\.png: its latents aren't finite"):
        encode_latents(dataset, plan, overflow)


@pytest.mark.parametrize("pooled", [True, False])
def test_captions_are_encoded_once_each(pooled):
    asked: list[str] = []

    def embed(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
        asked.extend(texts)
        rows = [[[float(text)] * 4] * 3 for text in texts]
        contexts = torch.tensor(rows, dtype=torch.float16)
        return contexts, contexts[:, 0] + 1 if pooled else None

    captions = [str(index % 40) for index in range(100)]
    events: list[Event] = []
    cache = encode_captions(captions, embed, events.append)
    assert cache is not None
    assert asked == captions[:40]
    context, vector = cache["39"]
    assert context.shape == (3, 4)
    assert context.dtype == torch.float32
    assert context.unique().tolist() == [39]
    assert (vector is not None) is pooled
    assert vector is None or vector.tolist() == [40.0] * 4
    assert events[-1] == PhaseProgress(name="text", done=40, total=40)
