"""Aspect-ratio buckets: which size each picture is trained at, and what is cropped for that.

The choice of size is kohya's (sd-scripts, `BucketManager.select_bucket`), so that step counts and
sizes compare. What differs: pictures are resized until they just cover their bucket and cropped
around the centre, no side falls below a minimum, and the limits follow the resolution.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..config.dataset import DatasetConfig
from ..errors import ConfigError, DatasetError
from ..events import Finding
from .items import ImageItem
from .listing import in_words, note

LATENT_STRIDE = 8
LEAST_SIDE = 64  # at the resolutions of real models: one pixel at the U-Net's deepest level
SMALL_RESOLUTION = 256
MUCH_CROPPED = 0.2


@dataclass(frozen=True, slots=True)
class BucketRules:
    """How sizes are chosen.

    buckets: False gives every picture the square of the resolution. step: sides are multiples of
    it, pixels, itself a multiple of 8. upscale: enlarge small pictures to the resolution.
    """

    buckets: bool = True
    step: int = 64
    upscale: bool = False

    def __post_init__(self) -> None:
        if self.step < LATENT_STRIDE or self.step % LATENT_STRIDE:
            raise ConfigError(
                f"dataset.bucket_step is {self.step}; it must be a multiple of {LATENT_STRIDE}, "
                "the pixels of one latent"
            )


@dataclass(frozen=True, slots=True)
class Fit:
    """How item `item` gets into its bucket.

    resized: (width, height) that just cover the bucket. crop_left, crop_top: pixels cut off there
    after resizing. crop_loss: the part of the picture that is cut off, in [0, 1).
    """

    item: int
    resized: tuple[int, int]
    crop_left: int
    crop_top: int
    crop_loss: float


@dataclass(frozen=True, slots=True)
class Bucket:
    """All pictures that are trained at one size, by item number."""

    width: int
    height: int
    fits: tuple[Fit, ...]


@dataclass(frozen=True, slots=True)
class BucketPlan:
    """The buckets, sorted by size; each item lies in exactly one."""

    resolution: int
    buckets: tuple[Bucket, ...]
    rules: BucketRules = BucketRules()
    findings: tuple[Finding, ...] = ()


def bucket_rules(config: DatasetConfig, resolution: int) -> BucketRules:
    """The settings with the step resolved: 0 is 64 pixels, or 8 below a resolution of 256."""
    step = LATENT_STRIDE if resolution < SMALL_RESOLUTION else LEAST_SIDE
    return BucketRules(config.buckets, config.bucket_step or step, config.bucket_upscale)


def lay_out(items: Sequence[ImageItem], resolution: int, rules: BucketRules) -> BucketPlan:
    """Give every item its bucket. `resolution`: pixels, its square is the budget of an area."""
    if not items:
        raise DatasetError("the dataset has no pictures to lay out")
    smallest = rules.step if rules.buckets else LATENT_STRIDE
    if resolution < smallest:
        raise ConfigError(
            f"dataset.resolution is {resolution}; it must be at least {smallest}, the smallest "
            "step of a side"
        )
    chooser = _Chooser(resolution, rules)
    members: dict[tuple[int, int], list[Fit]] = {}
    for index, item in enumerate(items):
        size = chooser.choose(item.width, item.height)
        members.setdefault(size, []).append(cover(index, (item.width, item.height), size))
    buckets = tuple(Bucket(*size, tuple(members[size])) for size in sorted(members))
    return BucketPlan(resolution, buckets, rules, tuple(_judged(items, buckets, rules)))


def cover(item: int, size: tuple[int, int], bucket: tuple[int, int]) -> Fit:
    """Resize `size` until it just covers `bucket`, both (width, height), and crop the middle."""
    (width, height), (across, down) = size, bucket
    if across * height >= down * width:
        resized = across, max(down, _divide(height * across, width))
    else:
        resized = max(across, _divide(width * down, height)), down
    loss = 1 - (across * down) / (resized[0] * resized[1])
    return Fit(item, resized, (resized[0] - across) // 2, (resized[1] - down) // 2, loss)


def standard_sizes(resolution: int, step: int, low: int, high: int) -> list[tuple[int, int]]:
    """All (width, height) within the budget, in steps from `low` to `high`, sorted.

    Source: sd-scripts, `model_util.make_bucket_resolutions`.
    """
    square = resolution // step * step
    sizes = {(square, square)}
    for width in range(low, high + 1, step):
        height = min(high, resolution * resolution // width // step * step)
        if height >= low:
            sizes |= {(width, height), (height, width)}
    return sorted(sizes)


class _Chooser:
    """Chooses the bucket of a picture; `low` is the least side of any bucket."""

    def __init__(self, resolution: int, rules: BucketRules) -> None:
        step = rules.step
        self._rules, self._step = rules, step
        self._square = resolution - resolution % LATENT_STRIDE
        self._budget = resolution * resolution
        self._low = step if resolution < SMALL_RESOLUTION else -(-LEAST_SIDE // step) * step
        low = max(self._low, resolution // 2 // step * step)
        high = max(low, resolution * 2 // step * step)
        self._standard = standard_sizes(resolution, step, low, high)

    def choose(self, width: int, height: int) -> tuple[int, int]:
        """The bucket's (width, height) for a picture of this size."""
        if not self._rules.buckets:
            return self._square, self._square
        if self._rules.upscale:
            return self._nearest(width, height)
        if min(width, height) < self._low:
            short = min(width, height)
            return self._floored(width * self._low // short, height * self._low // short)
        if width * height > self._budget:
            return self._floored(*self._shrunk(width, height))
        return self._floored(width, height)

    def _nearest(self, width: int, height: int) -> tuple[int, int]:
        if (width, height) in self._standard:
            return width, height
        aspect = width / height
        return min(self._standard, key=lambda size: abs(size[0] / size[1] - aspect))

    def _shrunk(self, width: int, height: int) -> tuple[int, int]:
        """The picture within the budget, one side in whole steps: the one that keeps its aspect
        better once the other side is cut to whole steps too.
        """
        aspect = width / height
        across = self._round(math.sqrt(self._budget * aspect))
        down = self._round(math.sqrt(self._budget / aspect))
        by_width = across / self._round(across / aspect)
        by_height = self._round(down * aspect) / down
        if abs(by_width - aspect) < abs(by_height - aspect):
            return across, int(across / aspect + 0.5)
        return int(down * aspect + 0.5), down

    def _round(self, side: float) -> int:
        return max(self._step, self._whole(int(side + 0.5)))

    def _floored(self, width: int, height: int) -> tuple[int, int]:
        """Whole steps, no side under the least one, the longer side within the budget."""
        short = max(self._low, self._whole(min(width, height)))
        long = max(short, self._whole(min(max(width, height), self._budget // short)))
        return (short, long) if width < height else (long, short)

    def _whole(self, side: int) -> int:
        return side - side % self._step


def _divide(dividend: int, divisor: int) -> int:
    """Rounded division of positive integers."""
    return (2 * dividend + divisor) // (2 * divisor)


def _judged(
    items: Sequence[ImageItem], buckets: tuple[Bucket, ...], rules: BucketRules
) -> list[Finding]:
    fits = [fit for bucket in buckets for fit in bucket.fits]
    return _about_enlarged(items, fits, rules) + _about_cropped(items, fits)


def _about_enlarged(
    items: Sequence[ImageItem], fits: list[Fit], rules: BucketRules
) -> list[Finding]:
    factors = {fit.item: _enlargement(items[fit.item], fit) for fit in fits}
    count = sum(factor > 1 for factor in factors.values())
    if not count:
        return []
    worst = max(factors, key=lambda index: factors[index])
    text = (
        f"{in_words(count)} of {len(items)} enlarged to the size they are trained at: most of "
        f"all {items[worst].path.name}, {factors[worst]:.1f} times"
    )
    level = "info" if rules.upscale else "warning"
    return [note(level, text, items[worst].path)]


def _about_cropped(items: Sequence[ImageItem], fits: list[Fit]) -> list[Finding]:
    cropped = [fit for fit in fits if fit.crop_loss > MUCH_CROPPED]
    if not cropped:
        return []
    worst = max(cropped, key=lambda fit: fit.crop_loss)
    path = items[worst.item].path
    text = (
        f"{in_words(len(cropped))} of {len(items)} cropped by more than {MUCH_CROPPED:.0%}: most "
        f"of all {path.name}, {worst.crop_loss:.0%}"
    )
    return [note("warning", text, path)]


def _enlargement(item: ImageItem, fit: Fit) -> float:
    """How many times the longer-grown side grows; 1 and less is no enlargement."""
    return max(fit.resized[0] / item.width, fit.resized[1] / item.height)
