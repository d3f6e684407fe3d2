"""Scanning folders: what is found, what is left out, what is said about it."""

import os
import shutil
import sys
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from lora_loop.core.config.training import TrainingConfig
from lora_loop.core.data.buckets import BucketRules, lay_out
from lora_loop.core.data.report import dataset_hash, report_sheet, report_text
from lora_loop.core.data.scan import Dataset, scan
from lora_loop.core.errors import DatasetError
from lora_loop.core.events import Event, PhaseProgress, PhaseStarted


def texts(dataset: Dataset) -> str:
    return "\n".join(finding.text for finding in dataset.findings)


def names(dataset: Dataset) -> list[str]:
    return [item.path.name for item in dataset.items]


def test_clean_folder_has_no_findings(save_picture, tmp_path):
    save_picture("10_momo/b.png", (60, 40), "a red cat")
    save_picture("10_momo/a.JPG", (40, 60), "a blue cat")
    dataset = scan(tmp_path / "10_momo")
    assert names(dataset) == ["a.JPG", "b.png"]
    first = dataset.items[0]
    assert (first.width, first.height) == (40, 60)
    assert (first.caption, first.has_caption, first.repeats, first.concept) == (
        "a blue cat",
        True,
        10,
        "momo",
    )
    assert len(first.sha256) == 64
    assert dataset.findings == ()


def test_parent_holds_concepts_in_order(save_picture, tmp_path):
    save_picture("set/2_zoe/a.png", caption="zoe")
    save_picture("set/10_momo_the_cat/a.png", caption="momo")
    save_picture("set/loose/a.png", caption="x")
    (tmp_path / "set" / "empty").mkdir()
    dataset = scan(tmp_path / "set")
    assert [(item.repeats, item.concept) for item in dataset.items] == [
        (10, "momo_the_cat"),
        (2, "zoe"),
    ]
    assert "loose with 1 picture is left out" in texts(dataset)
    assert "10_loose" in texts(dataset)
    assert len(dataset.findings) == 1


def test_any_folder_with_pictures_counts_once(save_picture, tmp_path):
    save_picture("my cats/ネコ é.png", caption="a cat")
    dataset = scan(tmp_path / "my cats")
    assert [(item.repeats, item.concept) for item in dataset.items] == [(1, "my cats")]


def test_loose_pictures_beside_concepts_are_reported(save_picture, tmp_path):
    save_picture("set/3_momo/a.png", caption="a")
    save_picture("set/cover.png", caption="b")
    dataset = scan(tmp_path / "set")
    assert names(dataset) == ["a.png"]
    assert "1 picture beside the folders 3_momo left out" in texts(dataset)


def test_nested_pictures_are_reported(save_picture, tmp_path):
    save_picture("3_momo/a.png", caption="a")
    save_picture("3_momo/5_more/b.png", caption="b")
    dataset = scan(tmp_path / "3_momo")
    assert names(dataset) == ["a.png"]
    assert "1 picture in 5_more below 3_momo left out" in texts(dataset)


@pytest.mark.parametrize("name", ["20240131_trip", "trip"])
def test_dates_are_no_repeats(save_picture, tmp_path, name):
    save_picture(f"{name}/a.png", caption="a")
    assert scan(tmp_path / name).items[0].repeats == 1


def test_year_as_repeats_is_questioned(save_picture, tmp_path):
    save_picture("2024_trip/a.png", caption="a")
    dataset = scan(tmp_path / "2024_trip")
    assert dataset.items[0].repeats == 2024
    assert "1_2024_trip" in texts(dataset)


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("", "two levels below, in train/10_momo: choose {root}/train"),
        ("train/10_momo/captions", "the one above holds 1 picture: choose {root}/train/10_momo"),
        ("train/10_momo/a.png", "the file"),
        ("nothing", "there is no folder"),
        ("other", "no pictures in {root}/other; supported kinds are .jpg"),
    ],
)
def test_wrong_folder_names_the_right_one(save_picture, tmp_path, chosen, expected):
    save_picture("train/10_momo/a.png")
    (tmp_path / "train/10_momo/captions").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "x.gif").write_bytes(b"GIF89a")
    with pytest.raises(DatasetError) as caught:
        scan(tmp_path / chosen)
    assert expected.format(root=tmp_path) in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_unnamed_child_folder_is_named(save_picture, tmp_path):
    save_picture("set/cats/a.png")
    with pytest.raises(DatasetError, match=r"one level below, in cats: choose .*cats, or rename"):
        scan(tmp_path / "set")


def test_zero_repeats(save_picture, tmp_path):
    save_picture("set/0_momo/a.png", caption="a")
    with pytest.raises(DatasetError, match="never seen: rename it to 1_momo"):
        scan(tmp_path / "set")
    with pytest.raises(DatasetError, match="rename it to 1_momo"):
        scan(tmp_path / "set" / "0_momo")


def test_broken_files_are_left_out_and_named(save_picture, tmp_path):
    good = save_picture("5_momo/good.png", caption="a")
    cut = save_picture("5_momo/cut.jpg", (200, 200))
    cut.write_bytes(cut.read_bytes()[:2000])
    (tmp_path / "5_momo/empty.png").write_bytes(b"")
    (tmp_path / "5_momo/text.webp").write_text("not a picture")
    (tmp_path / "5_momo/.hidden.png").write_bytes(b"junk")
    (tmp_path / "5_momo/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "5_momo/loop.png").symlink_to(tmp_path / "5_momo/loop.png")
    dataset = scan(tmp_path / "5_momo")
    assert [item.path for item in dataset.items] == [good]
    left_out = {finding.path.name: finding for finding in dataset.findings if finding.path}
    assert set(left_out) == {"cut.jpg", "empty.png", "text.webp", "gone.png", "loop.png"}
    assert "cut short" in left_out["cut.jpg"].text
    assert "empty" in left_out["empty.png"].text
    assert all(finding.level == "warning" for finding in left_out.values())


def test_all_broken_is_an_error(tmp_path):
    folder = tmp_path / "5_momo"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"")
    (folder / "b.png").write_bytes(b"junk")
    with pytest.raises(DatasetError, match=r"none of the 2 picture files .*a\.png.*empty.*b\.png"):
        scan(folder)


def test_unreadable_files_are_findings(save_picture, tmp_path, monkeypatch):
    save_picture("5_momo/a.png", caption="a")
    secret = save_picture("5_momo/b.png", caption="b")
    untold = save_picture("5_momo/c.png", caption="c").with_suffix(".txt")
    real_open = Path.open

    def guarded(self, *args, **kwargs):
        if self in (secret, untold):
            raise PermissionError(13, "Permission denied", str(self))
        return real_open(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", guarded)
    dataset = scan(tmp_path / "5_momo")
    assert names(dataset) == ["a.png", "c.png"]
    assert "b.png is left out" in texts(dataset)
    assert "c.txt can't be read (Permission denied): the folder's name 'momo'" in texts(dataset)


def test_missing_and_empty_captions_take_the_concept(save_picture, tmp_path):
    for index in range(14):
        save_picture(f"10_momo/{index:02}.png", caption=None if index < 3 else "a cat")
    (tmp_path / "10_momo/05.txt").write_text(" \n\t\n")
    dataset = scan(tmp_path / "10_momo")
    assert [item.caption for item in dataset.items[:4]] == ["momo", "momo", "momo", "a cat"]
    assert (dataset.items[5].caption, dataset.items[5].has_caption) == ("momo", False)
    assert "3 of 14 pictures have no caption: the folder's name 'momo' is used" in texts(dataset)
    assert "05.txt is empty: the folder's name 'momo' is used" in texts(dataset)


def test_no_words_at_all(save_picture, tmp_path):
    save_picture("10_/a.png")
    dataset = scan(tmp_path / "10_")
    assert dataset.items[0].caption == ""
    assert "1 of 1 picture has no caption: trained without words" in texts(dataset)


def test_other_caption_extensions(save_picture, tmp_path):
    save_picture("1_a/x.png", caption="from txt")
    (tmp_path / "1_a/x.caption").write_text("from caption")
    save_picture("1_a/y.png")
    (tmp_path / "1_a/y.CAPTION").write_text("only caption")
    assert scan(tmp_path / "1_a").captions == ["from txt", "only caption"]
    assert "captions that aren't .txt files, used for want of those (1): y.CAPTION" in texts(
        scan(tmp_path / "1_a")
    )
    assert scan(tmp_path / "1_a", "caption").captions == ["from caption", "only caption"]
    with pytest.raises(DatasetError, match="caption_extension is 'png'"):
        scan(tmp_path / "1_a", "png")


def test_unused_captions_shared_stems_and_duplicates(save_picture, tmp_path):
    path = save_picture("1_a/x.png", caption="words")
    save_picture("1_a/x.jpg")
    shutil.copy(path, tmp_path / "1_a/copy.png")
    (tmp_path / "1_a/copy.txt").write_text("words")
    (tmp_path / "1_a/notes.txt").write_text("buy milk")
    (tmp_path / "1_a/film.gif").write_bytes(b"GIF89a")
    dataset = scan(tmp_path / "1_a")
    assert dataset.captions == ["words"] * 3
    assert "x.jpg, x.png share x.txt" in texts(dataset)
    assert "x.png is the same file as copy.png" in texts(dataset)
    assert "caption files without a picture (1): notes.txt" in texts(dataset)
    assert "left out (1): film.gif" in texts(dataset)


def test_decomposed_names_find_their_captions(save_picture, tmp_path):
    path = save_picture("1_a/" + unicodedata.normalize("NFC", "é.png"))
    caption = path.with_name(unicodedata.normalize("NFD", "é.txt"))
    caption.write_text("accent")
    assert scan(tmp_path / "1_a").captions == ["accent"]


def test_tiny_pictures_are_reported(save_picture, tmp_path):
    save_picture("1_a/a.png", (5, 90), caption="a")
    assert "a.png is tiny: 5 x 90" in texts(scan(tmp_path / "1_a"))


def test_huge_pictures_are_left_out(save_picture, tmp_path, monkeypatch):
    save_picture("1_a/a.png", (20, 20), caption="a")
    save_picture("1_a/b.png", (200, 200), caption="b")
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)
    dataset = scan(tmp_path / "1_a")
    assert names(dataset) == ["a.png"]
    assert "too many pixels" in texts(dataset)
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", None)
    monkeypatch.setattr("lora_loop.core.data.decode.MAX_PIXELS", 1000)
    assert "200 x 200 pixels are more than 1,000" in texts(scan(tmp_path / "1_a"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_pipes_are_not_waited_for(save_picture, tmp_path):
    save_picture("1_a/a.png", caption="a")
    os.mkfifo(tmp_path / "1_a/b.png")
    os.mkfifo(tmp_path / "1_a/a.caption")
    dataset = scan(tmp_path / "1_a")
    assert names(dataset) == ["a.png"]
    assert "b.png is left out: it isn't a file" in texts(dataset)


@pytest.mark.skipif(sys.platform != "linux", reason="names of any bytes")
def test_names_of_another_encoding_stay_printable(tmp_path):
    folder = os.fsencode(tmp_path) + "/2_中".encode("gb2312")
    Path(os.fsdecode(folder)).mkdir()
    Image.new("RGB", (20, 20)).save(os.fsdecode(folder + "/中.png".encode("gb2312")))
    dataset = scan(tmp_path)
    assert set(dataset.captions[0]) == {"?"}
    plan = lay_out(dataset.items, 64, BucketRules(step=8))
    report_text(dataset, plan, TrainingConfig()).encode("utf-8")
    texts(dataset).encode("utf-8")
    report_sheet(dataset, plan)
    dataset_hash(dataset, plan)


def test_folder_cycles_end(save_picture, tmp_path):
    save_picture("set/3_momo/a.png", caption="a")
    (tmp_path / "set/3_momo/loop").symlink_to(tmp_path / "set", target_is_directory=True)
    assert names(scan(tmp_path / "set")) == ["a.png"]
    (tmp_path / "round").mkdir()
    (tmp_path / "round/again").symlink_to(tmp_path / "round", target_is_directory=True)
    with pytest.raises(DatasetError, match="no pictures in"):
        scan(tmp_path / "round")


def test_progress_and_stop(save_picture, tmp_path):
    for index in range(3):
        save_picture(f"1_a/{index}.png", caption="a")
    events: list[Event] = []
    scan(tmp_path / "1_a", on_event=events.append)
    assert events == [
        PhaseStarted(name="scan", total=3),
        *(PhaseProgress(name="scan", done=done, total=3) for done in (1, 2, 3)),
    ]
    events.clear()
    assert scan(tmp_path / "1_a", on_event=events.append, stop=lambda: len(events) > 1) is None
    assert len(events) == 2
