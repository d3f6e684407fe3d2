"""`lora-loop caption` from the command line."""

import json

import pytest
from PIL import Image

from lora_loop.core.cli.main import main

RULES = ["--captioner", "none"]


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set"
    root.mkdir()
    for name in ("a", "b"):
        Image.new("RGB", (8, 8)).save(root / f"{name}.png")
        (root / f"{name}.txt").write_text("cat, hat", encoding="utf-8")
    return root


def test_rules_dry_run_undo(folder, capsys):
    command = ["caption", str(folder), *RULES, "--trigger", "momo", "--remove", "hat"]
    assert main([*command, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "--- a.txt\n+++ a.txt\n@@ -1 +1 @@\n-cat, hat\n+momo, cat\n" in shown
    assert "2 pictures: 2 captions would be written" in shown
    assert (folder / "a.txt").read_text(encoding="utf-8") == "cat, hat"
    assert main(command) == 0
    assert (folder / "a.txt").read_text(encoding="utf-8") == "momo, cat\n"
    assert main(["caption", str(folder), "--tags"]) == 0
    assert "     2  momo\n" in capsys.readouterr().out
    assert main(["caption", str(folder), "--undo"]) == 0
    assert (folder / "a.txt").read_text(encoding="utf-8") == "cat, hat"


def test_options_overrule_the_settings_file(folder, tmp_path):
    settings = tmp_path / "caption.json"
    settings.write_text(
        json.dumps({"captioner": "none", "rules": {"suffix": "x", "trigger": "file"}}),
        encoding="utf-8",
    )
    assert main(["caption", str(folder), "--config", str(settings), "--trigger", "option"]) == 0
    assert (folder / "b.txt").read_text(encoding="utf-8") == "option, cat, hat, x\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "caption.model is ''"),
        ([*RULES, "--replace", "a"], "rules.replace[0]"),
        (["--general-threshold", "2"], "tagger.general_threshold is 2"),
        (["--undo"], "no captioning to undo"),
    ],
)
def test_errors_are_explained(folder, tmp_path, capsys, options, message):
    status = main(["caption", str(folder), "--models-folder", str(tmp_path / "none"), *options])
    assert status == 2
    assert message in capsys.readouterr().err
