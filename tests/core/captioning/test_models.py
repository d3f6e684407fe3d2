"""Finding models where hosts keep them; downloads only when they are asked for."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from lora_loop.core.captioning.download import USUAL, fetch
from lora_loop.core.captioning.models import captioner_names, download_plans, make_captioner
from lora_loop.core.captioning.protocol import CaptionerSource
from lora_loop.core.captioning.wd14 import WD14Tagger
from lora_loop.core.config.caption import CaptionConfig
from lora_loop.core.errors import CheckpointError


@pytest.fixture
def models(tiny, tmp_path, monkeypatch):
    """A folder as hosts have them: models in folders, in the hub's cache, and as loose files."""
    monkeypatch.setattr("lora_loop.core.captioning.wd14.find_spec", lambda name: True)
    root = tmp_path / "models"
    tiny.write_tags(root / "wd-one")
    (root / "wd-one" / "model.onnx").write_bytes(b"1")
    cached = root / "models--Smiling--wd-two" / "snapshots" / "abc"
    tiny.write_tags(cached)
    (cached / "model.onnx").write_bytes(b"2")
    tiny.write_tags(root)
    (root / "selected_tags.csv").rename(root / "wd-three.csv")
    (root / "wd-three.onnx").write_bytes(b"3")
    tiny.write_tags(root / "TaggerOnnx" / "wd-four")
    (root / "TaggerOnnx" / "wd-four" / "model.onnx").write_bytes(b"6")
    (root / "halved").mkdir()
    (root / "halved" / "model.onnx").write_bytes(b"4")
    (root / "config.txt").write_text("x", encoding="utf-8")
    return root


def source(*folders):
    return CaptionerSource(
        folders=folders, device=torch.device("cpu"), read_weights=lambda path: load_file(path)
    )


def tagger(config, *folders) -> WD14Tagger:
    made = make_captioner(config, source(*folders))
    assert isinstance(made, WD14Tagger)
    return made


def test_models_are_found_by_name(models):
    assert captioner_names("wd14", [models]) == ["wd-three", "wd-four", "wd-two", "wd-one"]
    assert captioner_names("blip", [models, models / "missing"]) == []


def test_names_that_can_be_no_path(models):
    for name in ("~nobody-of-that-name/x", "x" * 300):
        with pytest.raises(CheckpointError, match="there is no such wd14 model"):
            make_captioner(CaptionConfig(model=name), source(models))


@pytest.mark.parametrize(
    ("model", "content"),
    [("wd-one", "1"), ("Smiling/WD-Two", "2"), ("wd-three", "3"), ("wd-four", "6"), ("", "3")],
)
def test_a_model_is_chosen_by_name_or_is_the_first(models, model, content):
    assert tagger(CaptionConfig(model=model), models)._files.onnx.read_text() == content


def test_a_model_is_chosen_by_path(models):
    for path in (models / "wd-one", models / "wd-one" / "model.onnx"):
        assert tagger(CaptionConfig(model=str(path)))._files.onnx.read_text() == "1"
    with pytest.raises(CheckpointError, match=r"halved holds no wd14 model.*selected_tags\.csv"):
        make_captioner(CaptionConfig(model=str(models / "halved")), source())


def test_what_is_missing_is_told(models):
    with pytest.raises(CheckpointError, match=r"'other'.*found: wd-three, wd-four, wd-two, wd-one"):
        make_captioner(CaptionConfig(model="other"), source(models))


def with_hub(monkeypatch, answer):
    """What is asked of huggingface.co, which tests never reach; `answer` gets the folder."""
    asked = []

    def snapshot_download(repository, *, allow_patterns, local_dir):
        asked.append((repository, tuple(allow_patterns)))
        answer(Path(local_dir))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    return asked


def test_nothing_is_downloaded_unless_asked_for(models, tiny, tmp_path, monkeypatch):
    def answer(folder):
        tiny.write_tags(folder)
        (folder / "model.onnx").write_bytes(b"5")

    asked = with_hub(monkeypatch, answer)
    empty = tmp_path / "empty"
    with pytest.raises(CheckpointError, match=r"caption\.download"):
        make_captioner(CaptionConfig(), source(empty))
    assert asked == []
    fetched = tagger(CaptionConfig(download=True), empty)
    assert asked == [(USUAL["wd14"], tuple(download_plans("wd14")[0]))]
    assert fetched.name == "wd-vit-tagger-v3"
    make_captioner(CaptionConfig(download=True), source(empty))
    assert len(asked) == 1  # it is there now
    with pytest.raises(CheckpointError, match="owner/name"):
        make_captioner(CaptionConfig(model="other", download=True), source(empty))
    monkeypatch.setattr("lora_loop.core.captioning.wd14.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install onnxruntime"):
        make_captioner(CaptionConfig(model="a/other", download=True), source(empty))
    assert len(asked) == 1  # no half gigabyte for nothing


def test_without_a_connection(tmp_path, monkeypatch):
    """The real package with an address at which nothing listens."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"a/b can't be downloaded .*by another way"):
        fetch("a/b", ["model.onnx"], tmp_path)
