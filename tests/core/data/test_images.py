"""Pixels as a bucket wants them."""

import numpy as np
import pytest
import torch
from PIL import Image

from lora_loop.core.data.buckets import BucketRules, cover, lay_out
from lora_loop.core.data.images import kept_box, read_cropped, read_pixels
from lora_loop.core.data.scan import scan
from lora_loop.core.errors import DatasetError


def only_item(path):
    return scan(path.parent).items[0]


def test_pixels_are_channels_first_in_minus_one_to_one(tmp_path):
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[:, 64:] = (255, 51, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    item = only_item(tmp_path / "a.png")
    tensor = read_pixels(item, cover(0, (128, 64), (128, 64)), (128, 64))
    assert tensor.shape == (3, 64, 128)
    assert tensor.dtype == torch.float32
    assert tensor.is_contiguous()
    assert tensor[:, 0, 0].tolist() == [-1, -1, -1]
    assert tensor[:, 63, 127].tolist() == pytest.approx([1, -0.6, -1])


@pytest.mark.parametrize("size", [(200, 120), (120, 200), (97, 331), (64, 64), (30, 41)])
def test_equals_resizing_all_and_cropping(tmp_path, size):
    """On a smooth picture, within what the rounding between the two passes can make."""
    coarse = np.random.default_rng(1).integers(60, 196, (9, 9, 3), dtype=np.uint8)
    path = tmp_path / "a.png"
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(path)
    item = only_item(path)
    fit = cover(0, size, (96, 64))
    whole = Image.open(path).resize(fit.resized, Image.Resampling.LANCZOS)
    box = (fit.crop_left, fit.crop_top, fit.crop_left + 96, fit.crop_top + 64)
    expected = np.asarray(whole.crop(box)).astype(int)
    found = np.asarray(read_cropped(item, fit, (96, 64))).astype(int)
    assert np.abs(found - expected).max() <= 2
    assert np.abs(found - expected).mean() < 0.1


def test_shrinking_is_antialiased(tmp_path):
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tmp_path / "a.png")
    item = only_item(tmp_path / "a.png")
    pixels = read_pixels(item, cover(0, (512, 512), (64, 64)), (64, 64))
    assert pixels[:, 8:-8, 8:-8].abs().max() < 0.03


def test_kept_box_is_the_middle(make_item):
    item = make_item(1000, 500)
    assert kept_box(item, cover(0, (1000, 500), (64, 64)), (64, 64)) == (250, 0, 750, 500)


def test_endless_panorama_stays_small(tmp_path):
    Image.new("RGB", (20000, 10), "red").save(tmp_path / "a.png")
    item = only_item(tmp_path / "a.png")
    plan = lay_out([item], 512, BucketRules())
    bucket = plan.buckets[0]
    pixels = read_pixels(item, bucket.fits[0], (bucket.width, bucket.height))
    assert pixels.shape == (3, 64, 4096)


def test_changed_files_are_named(save_picture):
    path = save_picture("a.png", (64, 64))
    item = only_item(path)
    fit = cover(0, (64, 64), (64, 64))
    Image.new("RGB", (70, 70)).save(path)
    with pytest.raises(DatasetError, match=r"a\.png is 70 x 70 pixels and was 64 x 64"):
        read_pixels(item, fit, (64, 64))
    path.unlink()
    with pytest.raises(DatasetError, match=r"a\.png.*fine when scanned"):
        read_pixels(item, fit, (64, 64))
