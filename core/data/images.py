"""A picture's pixels as its bucket wants them."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import DatasetError
from .buckets import Fit
from .decode import UnusablePictureError, decode_picture
from .items import ImageItem
from .listing import legible


def read_pixels(item: ImageItem, fit: Fit, bucket_size: tuple[int, int]) -> Tensor:
    """The picture resized to cover its bucket and cropped: (3, H, W), float32 in [-1, 1].

    bucket_size: (width, height), pixels. Raises DatasetError where the file isn't what it was
    when the dataset was scanned.
    """
    pixels = np.array(read_cropped(item, fit, bucket_size))
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float().div_(127.5).sub_(1)


def read_cropped(item: ImageItem, fit: Fit, bucket_size: tuple[int, int]) -> Image.Image:
    """The same as an RGB picture of `bucket_size`.

    Only what is kept gets resized (Lanczos, antialiased): a long panorama that is enlarged to
    cover its bucket never exists as a whole.
    """
    try:
        picture = decode_picture(item.path)
    except UnusablePictureError as error:
        raise DatasetError(f"{legible(item.path)}: {error}; it was fine when scanned") from error
    if picture.size != (item.width, item.height):
        raise DatasetError(
            f"{legible(item.path)} is {picture.width} x {picture.height} pixels and was "
            f"{item.width} x {item.height} when scanned; scan the dataset again"
        )
    return picture.resize(bucket_size, Image.Resampling.LANCZOS, kept_box(item, fit, bucket_size))


def kept_box(
    item: ImageItem, fit: Fit, bucket_size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what is kept, in pixels of the original picture."""
    across = item.width / fit.resized[0]
    down = item.height / fit.resized[1]
    return (
        fit.crop_left * across,
        fit.crop_top * down,
        min(item.width, (fit.crop_left + bucket_size[0]) * across),
        min(item.height, (fit.crop_top + bucket_size[1]) * down),
    )
