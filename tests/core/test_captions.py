"""Captioning a folder through the session: what is written, kept, gone on with and taken back."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_loop.core import captions as captions_module
from lora_loop.core import session
from lora_loop.core.captioning.journal import NAME
from lora_loop.core.config.caption import CaptionConfig, RulesConfig
from lora_loop.core.errors import CheckpointError, DatasetError, FileError, TrainerError
from lora_loop.core.events import PhaseProgress, PhaseStarted

COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


class ColourNamer:
    """A captioner of three words; `seen` counts what it was asked for."""

    name = "colours"

    def __init__(self, identity="1"):
        self.identity = identity
        self.seen = 0

    def prepare(self, picture):
        return np.asarray(picture, dtype=np.float32).mean(axis=(0, 1))

    def caption(self, prepared):
        self.seen += len(prepared)
        return [f"{list(COLOURS)[int(mean.argmax())]}, 1girl" for mean in prepared]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Six pictures in two concepts; the second of each has a caption."""
    root = tmp_path / "set"
    for concept in ("2_momo", "1_world"):
        (root / concept).mkdir(parents=True)
        for name, colour in COLOURS.items():
            Image.new("RGB", (8, 6), colour).save(root / concept / f"{name}.png")
        (root / concept / "green.txt").write_text("by hand, smile", encoding="utf-8")
    return root


def texts(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.txt"))
    }


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != NAME
    }


def test_keep_leaves_captions_alone(folder):
    report = session.caption(folder, CaptionConfig(), ColourNamer())
    assert texts(folder)["2_momo/red.txt"] == "red, 1girl\n"
    assert texts(folder)["2_momo/green.txt"] == "by hand, smile"
    assert (report.pictures, len(report.changes), report.kept) == (6, 4, 2)
    assert report.summary() == "6 pictures: 4 captions written, 2 kept"


@pytest.mark.parametrize(
    ("existing", "expected"),
    [
        ("replace", "momo, green, 1girl\n"),
        ("append", "momo, by hand, smile, green, 1girl\n"),
        ("prepend", "momo, green, 1girl, by hand, smile\n"),
    ],
)
def test_what_is_there_and_what_is_new(folder, existing, expected):
    config = CaptionConfig(existing=existing, rules=RulesConfig(trigger="momo"))
    session.caption(folder, config, ColourNamer())
    assert texts(folder)["1_world/green.txt"] == expected


def test_rules_change_new_words_only(folder):
    rules = RulesConfig(remove=["smile", "1girl"])
    session.caption(folder, CaptionConfig(existing="append", rules=rules), ColourNamer())
    assert texts(folder)["1_world/green.txt"] == "by hand, smile, green\n"


def test_a_dry_run_writes_nothing_and_shows_everything(folder):
    before = files(folder)
    config = CaptionConfig(existing="append", dry_run=True)
    report = session.caption(folder, config, ColourNamer())
    assert files(folder) == before
    assert not (folder / NAME).exists()
    [change] = [c for c in report.changes if c.file == folder / "2_momo/green.txt"]
    assert change.diff(folder).splitlines() == [
        "--- 2_momo/green.txt",
        "+++ 2_momo/green.txt",
        "@@ -1 +1 @@",
        "-by hand, smile",
        "+by hand, smile, green, 1girl",
    ]
    assert (change.added, change.removed) == (("green", "1girl"), ())
    assert "--- /dev/null\n+++ 2_momo/red.txt" in report.diff()
    real = session.caption(folder, replace(config, dry_run=False), ColourNamer())
    assert real.changes == report.changes


def test_a_run_goes_on_where_it_was_stopped(folder):
    config = CaptionConfig(existing="replace", batch_size=2)
    whole = ColourNamer()
    events = []
    report = session.caption(
        folder, config, whole, on_event=events.append, stop=lambda: whole.seen >= 2
    )
    assert report.stopped
    assert (len(report.changes), report.waiting) == (2, 4)
    assert events == [
        PhaseStarted(name="caption", total=6),
        PhaseProgress(name="caption", done=2, total=6),
    ]
    again = ColourNamer()
    report = session.caption(folder, config, again)
    assert (again.seen, report.done_before, len(report.changes)) == (4, 2, 4)
    third = ColourNamer()
    assert session.caption(folder, config, third).done_before == 6
    assert third.seen == 0


def test_what_is_done_again(folder):
    """Other settings, another model, another picture, a caption edited since: all are anew."""
    config = CaptionConfig(existing="replace")

    def seen(config=config, identity="1"):
        namer = ColourNamer(identity)
        session.caption(folder, config, namer)
        return namer.seen

    assert seen() == 6
    assert seen(replace(config, batch_size=1)) == 0
    assert seen(identity="2") == 6
    assert seen(replace(config, rules=RulesConfig(trigger="x")), identity="2") == 6
    assert seen() == 6
    Image.new("RGB", (9, 9), COLOURS["red"]).save(folder / "2_momo/blue.png")
    (folder / "2_momo/red.txt").write_text("mine", encoding="utf-8")
    assert seen() == 2
    assert texts(folder)["2_momo/blue.txt"] == "red, 1girl\n"


def test_an_error_keeps_what_is_done_and_names_the_remedy(folder):
    class Full(ColourNamer):
        def caption(self, prepared):
            if self.seen == 2:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().caption(prepared)

    config = CaptionConfig(existing="replace", batch_size=2)
    with pytest.raises(TrainerError, match=r"caption\.batch_size 2"):
        session.caption(folder, config, Full())
    assert texts(folder)["1_world/blue.txt"] == "blue, 1girl\n"
    assert len(texts(folder)) == 3
    assert session.caption(folder, config, ColourNamer()).done_before == 2


def test_killed_between_the_journal_and_the_captions(folder, monkeypatch):
    """The journal is written first: what it promised and did not do is done again, or undone."""
    before = files(folder)
    real = captions_module._write

    def killed(path, content):
        if path.suffix == ".txt" and "2_momo" in path.parts:
            raise KeyboardInterrupt
        real(path, content)

    config = CaptionConfig(existing="replace", batch_size=6)
    monkeypatch.setattr(captions_module, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        session.caption(folder, config, ColourNamer())
    monkeypatch.undo()
    assert texts(folder)["1_world/green.txt"] == "green, 1girl\n"
    report = session.undo_captions(folder)
    assert (len(report.changes), report.unchanged) == (3, 3)
    assert files(folder) == before
    monkeypatch.setattr(captions_module, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        session.caption(folder, config, ColourNamer())
    monkeypatch.undo()
    report = session.caption(folder, config, ColourNamer())
    assert (report.done_before, len(report.changes)) == (3, 3)


def test_kept_captions_without_the_trigger_are_told_of(folder):
    (folder / "2_momo/green.txt").write_text("Momo, smile", encoding="utf-8")
    config = CaptionConfig(rules=RulesConfig(trigger="momo"))
    report = session.caption(folder, config, ColourNamer())
    [finding] = report.findings
    assert finding.text.startswith('1 captions that are kept lack the trigger "momo"')


def test_unreadable_pictures_are_told_of_and_skipped(folder):
    (folder / "2_momo/red.png").write_bytes(b"no picture")
    report = session.caption(folder, CaptionConfig(batch_size=1), ColourNamer())
    assert (report.unreadable, len(report.changes)) == (1, 3)
    [finding] = [f for f in report.findings if f.path == folder / "2_momo/red.png"]
    assert finding.level == "warning"
    assert not (folder / "2_momo/red.txt").exists()


def test_pictures_that_share_a_caption(folder):
    Image.new("RGB", (8, 8)).save(folder / "2_momo/red.jpg")
    captions = session.read_captions(folder)
    assert len(captions.items) == 6
    [finding] = captions.findings
    assert "shares its caption with red.jpg" in finding.text


def test_undo_puts_every_byte_back(folder):
    (folder / "2_momo/green.txt").write_bytes("灰色, 猫".encode("gb2312"))
    (folder / "1_world/green.txt").write_bytes(b"\xef\xbb\xbfa,\r\nb\r\n")
    before = files(folder)
    session.caption(folder, CaptionConfig(existing="append"), ColourNamer())
    assert texts(folder)["2_momo/green.txt"] == "灰色, 猫, green, 1girl\n"
    between = files(folder)
    rules = RulesConfig(replace=["1girl => woman"], suffix="z")
    session.caption(folder, CaptionConfig(captioner="none", rules=rules))
    assert session.undo_captions(folder).summary() == "6 pictures: 6 captions put back"
    assert files(folder) == between
    session.undo_captions(folder)
    assert files(folder) == before
    with pytest.raises(DatasetError, match="no captioning to undo"):
        session.undo_captions(folder)


def test_undo_leaves_later_edits_alone(folder):
    session.caption(folder, CaptionConfig(), ColourNamer())
    (folder / "2_momo/red.txt").write_text("mine", encoding="utf-8")
    report = session.undo_captions(folder)
    assert (len(report.changes), report.kept) == (3, 1)
    assert report.findings[0].path == folder / "2_momo/red.txt"
    assert sorted(texts(folder)) == ["1_world/green.txt", "2_momo/green.txt", "2_momo/red.txt"]


def test_a_journal_that_was_cut_off_or_tampered_with(folder, tmp_path):
    """A killed run leaves half a line; a stranger's journal may name files elsewhere."""
    session.caption(folder, CaptionConfig(), ColourNamer())
    path = folder / NAME
    lines = path.read_text(encoding="ascii").splitlines(keepends=True)
    outside = tmp_path / "outside.txt"
    outside.write_text("a\n", encoding="utf-8")
    evil = [
        json.dumps({**json.loads(lines[0]), "file": name, "before": "b", "after": "a\n"}) + "\n"
        for name in ("../outside.txt", str(outside), "2_momo/../../outside.txt", ".hidden.txt")
    ]
    path.write_text("".join([*lines[:2], *evil, "[]\n", lines[2][:40]]), encoding="ascii")
    report = session.caption(folder, CaptionConfig(existing="replace"), ColourNamer())
    assert report.done_before == 0  # "keep" and "replace" are other settings
    assert len(path.read_text(encoding="ascii").splitlines()) == 2 + len(report.changes)
    session.undo_captions(folder)
    session.undo_captions(folder)
    assert outside.read_text(encoding="utf-8") == "a\n"


def test_only_some_pictures(folder):
    chosen = [folder / "2_momo/red.png"]
    report = session.caption(folder, CaptionConfig(), ColourNamer(), pictures=chosen)
    assert [change.picture for change in report.changes] == chosen
    with pytest.raises(DatasetError, match="not among the pictures"):
        session.caption(folder, CaptionConfig(), ColourNamer(), pictures=[folder / "x.png"])


def test_captions_edited_by_hand(folder):
    captions = session.read_captions(folder)
    assert captions.tags() == {"by hand": 2, "smile": 2}
    assert captions.with_tag("Smile") == (folder / "1_world/green.png", folder / "2_momo/green.png")
    before = files(folder)
    red, green = folder / "2_momo/red.png", folder / "2_momo/green.png"
    report = session.write_captions(captions, {red: "a\n b", green: "by hand, smile"})
    assert (len(report.changes), report.unchanged) == (1, 1)
    assert texts(folder)["2_momo/red.txt"] == "a b\n"
    session.undo_captions(folder)
    assert files(folder) == before
    with pytest.raises(DatasetError, match="not among the pictures"):
        session.write_captions(captions, {folder / "x.png": "a"})


def test_rules_that_find_nothing_are_told(folder):
    rules = RulesConfig(remove=["smile"], replace=["smlie => x"])
    report = session.caption(folder, CaptionConfig(captioner="none", rules=rules))
    assert [finding.text for finding in report.findings] == [
        'the rule "smlie => x" found nothing in 6 captions'
    ]
    assert texts(folder) == {"1_world/green.txt": "by hand\n", "2_momo/green.txt": "by hand\n"}


def test_folders(folder, tmp_path):
    """Without `recursive` what a training sees; with it everything below."""
    deep = folder / "extra" / "more"
    deep.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(deep / "x.png")
    assert len(session.read_captions(folder).items) == 6
    assert len(session.read_captions(folder, recursive=True).items) == 7
    for missing in (tmp_path / "no", folder / "1_world" / "red.png"):
        for recursive in (False, True):
            with pytest.raises(DatasetError):
                session.read_captions(missing, recursive=recursive)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match="no pictures"):
        session.read_captions(tmp_path / "empty", recursive=True)


def test_another_extension(folder):
    """A caption of the other known extension counts as there, and the wanted one is written."""
    config = CaptionConfig(existing="append", caption_extension=".caption")
    session.caption(folder, config, ColourNamer())
    written = folder / "2_momo/green.caption"
    assert written.read_text(encoding="utf-8") == "by hand, smile, green, 1girl\n"
    assert texts(folder)["2_momo/green.txt"] == "by hand, smile"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(folder):
    folder.chmod(0o555)
    try:
        with pytest.raises(FileError, match=r"lora-loop-captions.*can't be written"):
            session.caption(folder, CaptionConfig(), ColourNamer())
    finally:
        folder.chmod(0o755)


def test_a_missing_model_is_explained(folder, tmp_path):
    config = CaptionConfig(model="wd-vit-tagger-v3")
    with pytest.raises(CheckpointError, match=r"caption\.model is 'wd-vit-tagger-v3'.*models"):
        session.open_captioner(config, [tmp_path / "models"])
    assert session.open_captioner(CaptionConfig(captioner="none")) is None
