"""Buckets against kohya's choice, and properties that hold for any picture."""

import math
import random

import pytest

from lora_loop.core.config.dataset import DatasetConfig
from lora_loop.core.data.buckets import BucketRules, bucket_rules, cover, lay_out, standard_sizes
from lora_loop.core.errors import ConfigError, DatasetError


def kohya_choice(width: int, height: int, resolution: int, step: int, upscale: bool):
    """The bucket that sd-scripts' BucketManager would choose, written down anew from its rules."""
    aspect = width / height
    if upscale:
        sizes = {(resolution // step * step,) * 2}
        for across in range(resolution // 2, 2 * resolution + 1, step):
            down = min(2 * resolution, int((resolution**2 // across) // step) * step)
            if down >= resolution // 2:
                sizes |= {(across, down), (down, across)}
        if (width, height) in sizes:
            return width, height
        ordered = sorted(sizes)
        errors = [abs(size[0] / size[1] - aspect) for size in ordered]
        return ordered[errors.index(min(errors))]
    if width * height > resolution**2:
        ideal_width = math.sqrt(resolution**2 * aspect)
        ideal_height = resolution**2 / ideal_width

        def whole(value: float) -> int:
            return int(value + 0.5) // step * step

        w1 = whole(ideal_width)
        h1 = whole(w1 / aspect)
        h2 = whole(ideal_height)
        w2 = whole(h2 * aspect)
        if abs(w1 / h1 - aspect) < abs(w2 / h2 - aspect):
            width, height = w1, int(w1 / aspect + 0.5)
        else:
            width, height = int(h2 * aspect + 0.5), h2
    return width // step * step, height // step * step


@pytest.mark.parametrize(("resolution", "step"), [(512, 64), (768, 64), (1024, 32), (128, 8)])
@pytest.mark.parametrize("upscale", [False, True])
def test_choice_is_kohyas_for_usual_shapes(make_item, resolution, step, upscale):
    chance = random.Random(f"{resolution} {step} {upscale}")
    for _ in range(300):
        height = chance.randint(max(64, step), 3 * resolution)
        width = min(max(64, step, int(height * chance.uniform(0.4, 2.5))), 6000)
        bucket = lay_out([make_item(width, height)], resolution, BucketRules(True, step, upscale))
        found = bucket.buckets[0].width, bucket.buckets[0].height
        assert found == kohya_choice(width, height, resolution, step, upscale), (width, height)


@pytest.mark.parametrize(
    ("size", "upscale", "bucket", "resized", "crop"),
    [
        ((512, 512), False, (512, 512), (512, 512), (0, 0)),
        ((1920, 1080), False, (640, 384), (683, 384), (21, 0)),
        ((1920, 1080), True, (640, 384), (683, 384), (21, 0)),
        ((500, 380), False, (448, 320), (448, 340), (0, 10)),
        ((300, 300), False, (256, 256), (256, 256), (0, 0)),
        ((300, 300), True, (512, 512), (512, 512), (0, 0)),
        ((30, 200), False, (64, 384), (64, 427), (0, 21)),
        ((1, 1), False, (64, 64), (64, 64), (0, 0)),
        ((20000, 10), False, (4096, 64), (128000, 64), (61952, 0)),
        ((100000, 100), False, (4096, 64), (64000, 64), (29952, 0)),
    ],
)
def test_worked_examples_at_512(make_item, size, upscale, bucket, resized, crop):
    plan = lay_out([make_item(*size)], 512, BucketRules(True, 64, upscale))
    found = plan.buckets[0]
    assert (found.width, found.height) == bucket
    fit = found.fits[0]
    assert (fit.resized, (fit.crop_left, fit.crop_top)) == (resized, crop)
    assert fit.crop_loss == pytest.approx(
        1 - bucket[0] * bucket[1] / (resized[0] * resized[1]), abs=1e-12
    )


def test_properties_of_any_picture(make_item):
    chance = random.Random(5)
    for _ in range(3000):
        step = chance.choice([8, 16, 32, 64])
        resolution = chance.choice([64, 96, 256, 300, 512, 1000])
        rules = BucketRules(chance.random() < 0.8, step, chance.random() < 0.5)
        size = tuple(int(math.exp(chance.uniform(0, 9.5))) for _ in range(2))
        bucket = lay_out([make_item(*size)], resolution, rules).buckets[0]
        fit = bucket.fits[0]
        sides = bucket.width, bucket.height
        low = step if resolution < 256 else max(step, 64)
        if rules.buckets:
            assert all(side % step == 0 and side >= step for side in sides)
            assert bucket.width * bucket.height <= resolution**2
            if not rules.upscale and min(size) >= low:
                assert all(new <= old for new, old in zip(fit.resized, size, strict=True))
        else:
            assert sides == (resolution // 8 * 8,) * 2
        assert any(new == side for new, side in zip(fit.resized, sides, strict=True))
        assert all(new >= side for new, side in zip(fit.resized, sides, strict=True))
        assert 0 <= fit.crop_left <= fit.resized[0] - sides[0]
        assert 0 <= fit.crop_top <= fit.resized[1] - sides[1]
        assert 0 <= fit.crop_loss < 1


def test_standard_sizes_of_512():
    sizes = standard_sizes(512, 64, 256, 1024)
    assert sizes[:4] == [(256, 832), (256, 896), (256, 960), (256, 1024)]
    assert (512, 512) in sizes
    assert (448, 576) in sizes
    assert sizes == sorted({(h, w) for w, h in sizes})


def test_plan_is_sorted_and_complete(make_item):
    items = [make_item(512, 512), make_item(400, 600), make_item(512, 512)]
    plan = lay_out(items, 512, BucketRules())
    assert [(b.width, b.height) for b in plan.buckets] == [(384, 576), (512, 512)]
    assert [[fit.item for fit in bucket.fits] for bucket in plan.buckets] == [[1], [0, 2]]
    assert plan.findings == ()


def test_findings_name_the_worst(make_item):
    items = [make_item(512, 512), make_item(30, 60, name="b.png"), make_item(9, 90, name="c.png")]
    found = lay_out(items, 512, BucketRules()).findings
    assert "2 pictures of 3 enlarged" in found[0].text
    assert "c.png, 7.1 times" in found[0].text
    assert found[0].level == "warning"
    squares = lay_out([make_item(2048, 512, name="wide.png")], 512, BucketRules(buckets=False))
    assert "wide.png, 75%" in squares.findings[0].text
    assert (
        lay_out([make_item(300, 300)], 512, BucketRules(upscale=True)).findings[0].level == "info"
    )


def test_cover_of_equal_shapes_loses_nothing():
    fit = cover(3, (1024, 768), (512, 384))
    assert (fit.item, fit.resized, fit.crop_left, fit.crop_top, fit.crop_loss) == (
        3,
        (512, 384),
        0,
        0,
        0.0,
    )


def test_rules_from_settings():
    config = DatasetConfig(folder="x")
    assert bucket_rules(config, 512) == BucketRules(True, 64, False)
    assert bucket_rules(config, 128) == BucketRules(True, 8, False)
    assert bucket_rules(DatasetConfig(folder="x", bucket_step=32), 128).step == 32


@pytest.mark.parametrize("step", [0, -8, 12, 7])
def test_bad_steps(step):
    with pytest.raises(ConfigError, match=f"bucket_step is {step}"):
        BucketRules(True, step, False)


def test_nothing_to_lay_out_and_resolutions_too_small(make_item):
    with pytest.raises(DatasetError, match="no pictures"):
        lay_out([], 512, BucketRules())
    for resolution in (0, -5, 32):
        with pytest.raises(ConfigError, match=f"resolution is {resolution}"):
            lay_out([make_item(64, 64)], resolution, BucketRules(True, 64))
