"""The dataset report and the hash of a dataset."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFont

from lora_loop.core.config.training import TrainingConfig
from lora_loop.core.data.buckets import BucketRules, lay_out
from lora_loop.core.data.report import (
    dataset_hash,
    report_sheet,
    report_text,
    shortened,
    table,
    text_width,
)
from lora_loop.core.data.scan import scan


@pytest.fixture
def dataset(save_picture, tmp_path):
    save_picture("set/10_momo/a.png", (128, 128), "momo, red hat")
    save_picture("set/10_momo/b.png", (256, 128), "momo, 猫")
    save_picture("set/2_もも/c.png", (64, 128))
    return scan(tmp_path / "set")


def test_text_tells_the_true_steps(dataset):
    plan = lay_out(dataset.items, 128, BucketRules(step=8))
    text = report_text(dataset, plan, TrainingConfig(epochs=3, batch_size=4))
    assert "3 pictures, seen 22 times in an epoch" in text
    assert "21 steps = 3 epochs x 7" in text
    assert "would say 17" in text
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "10_momo 10 2 2 20" in lines
    assert "2_もも 2 1 0 2" in lines
    assert "128 x 128 1 10 3 0.0% 0.0%" in lines
    assert "momo 2" in lines
    assert "1 of 1 picture has no caption: the folder's name 'もも' is used" in text


def test_text_of_max_steps_and_accumulation(dataset):
    plan = lay_out(dataset.items, 128, BucketRules(step=8))
    training = TrainingConfig(max_steps=14, batch_size=4, gradient_accumulation=2)
    text = report_text(dataset, plan, training)
    assert "2 added up to a step: 4 steps" in text
    assert "14 steps as set by training.max_steps: 3.5 epochs" in text


def test_table_aligns_wide_letters():
    assert table([("猫", "1"), ("a", "20")]) == ["猫   1", "a   20"]
    assert text_width("e\u0301猫") == 3
    assert shortened("猫猫猫", 5) == "猫猫…"


def test_sheet_dims_what_is_cropped(tmp_path):
    (tmp_path / "1_a").mkdir()
    Image.new("RGB", (400, 100), "red").save(tmp_path / "1_a/a.png")
    dataset = scan(tmp_path / "1_a")
    sheet = report_sheet(dataset, lay_out(dataset.items, 64, BucketRules(buckets=False)))
    pixels = np.asarray(sheet).astype(int)
    red = (pixels == (255, 0, 0)).all(-1)
    ys, xs = np.nonzero(red)
    across, down = xs.max() - xs.min() + 1, ys.max() - ys.min() + 1
    assert down == pytest.approx(44, abs=3)
    assert across == pytest.approx(44, abs=3)
    framed = (pixels == (255, 176, 0)).all(-1)
    assert framed.any()
    row = pixels[(ys.min() + ys.max()) // 2]
    assert tuple(row[xs.min() - 10]) != (255, 0, 0)


def test_sheet_of_thousands_shows_some(save_picture, tmp_path):
    save_picture("1_a/a.png", (96, 64), "a")
    item = scan(tmp_path / "1_a").items[0]
    dataset = scan(tmp_path / "1_a")
    many = replace(dataset, items=(item,) * 5000)
    sheet = report_sheet(many, lay_out(many.items, 64, BucketRules(step=8)))
    assert sheet.height < 6000
    text = report_text(many, lay_out(many.items, 64, BucketRules(step=8)), TrainingConfig())
    assert len(text) < 3000


def test_sheet_survives_a_lost_picture_and_bitmap_fonts(dataset, monkeypatch):
    plan = lay_out(dataset.items, 128, BucketRules(step=8))
    dataset.items[1].path.unlink()
    assert report_sheet(dataset, plan).mode == "RGB"

    real_default = ImageFont.load_default
    bitmap = getattr(ImageFont, "load_default_imagefont", real_default)

    def old_default(*size):
        if size:
            raise TypeError("load_default() takes 0 positional arguments but 1 was given")
        return bitmap()

    monkeypatch.setattr(ImageFont, "load_default", old_default)
    assert report_sheet(dataset, plan).mode == "RGB"


def test_hash_ignores_where_and_knows_what(dataset, save_picture, tmp_path):
    rules = BucketRules(step=8)
    plan = lay_out(dataset.items, 128, rules)
    before = dataset_hash(dataset, plan)
    shutil.copytree(tmp_path / "set", tmp_path / "copy")
    copy = scan(tmp_path / "copy")
    assert dataset_hash(copy, plan) == before
    assert dataset_hash(copy, lay_out(copy.items, 96, rules)) != before
    first, *others = copy.items
    for changed in (
        replace(first, caption="else"),
        replace(first, repeats=9),
        replace(first, sha256="f" * 64),
    ):
        assert dataset_hash(replace(copy, items=(changed, *others)), plan) != before
    assert dataset_hash(replace(copy, items=copy.items[::-1]), plan) != before
