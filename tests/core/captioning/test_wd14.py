"""The tagger: its preparation against torch, its scores against the arithmetic of a tiny graph."""

import numpy as np
import pytest
import torch
from PIL import Image

from lora_loop.core.captioning.protocol import CaptionerSource
from lora_loop.core.captioning.tags import TagList, choose_tags, read_tags
from lora_loop.core.captioning.wd14 import (
    Shape,
    TaggerFiles,
    WD14Tagger,
    choose_runtime,
    model_input,
    prepare_picture,
    probabilities,
)
from lora_loop.core.config.caption import TaggerConfig
from lora_loop.core.errors import CheckpointError


def source_of(read):
    return CaptionerSource(folders=(), device=torch.device("cpu"), read_weights=read)


def test_preparation_pads_with_white_and_swaps_colours():
    picture = Image.new("RGB", (2, 4), (10, 20, 30))
    prepared = prepare_picture(picture, 4)
    assert prepared.shape == (4, 4, 3)
    assert prepared[:, 1:3].tolist() == [[[30, 20, 10]] * 2] * 4
    assert (prepared[:, [0, 3]] == 255).all()


@pytest.mark.parametrize("size", [(50, 31), (9, 13)])
def test_preparation_against_torch(size):
    """Padding and bicubic resizing by other code: no more than rounding off."""
    noise = np.random.default_rng(1).integers(80, 180, (size[1], size[0], 3), dtype=np.uint8)
    side = max(size)
    left, top = (side - size[0]) // 2, (side - size[1]) // 2
    padded = np.pad(
        noise,
        ((top, side - size[1] - top), (left, side - size[0] - left), (0, 0)),
        constant_values=255,
    )
    tensor = torch.from_numpy(padded[:, :, ::-1].copy()).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(tensor, (24, 24), mode="bicubic", antialias=True)
    prepared = prepare_picture(Image.fromarray(noise), 24)
    difference = prepared - expected[0].permute(1, 2, 0).clamp(0, 255).numpy()
    assert np.abs(difference).max() <= 1.5  # Pillow rounds twice


def test_a_model_says_what_it_takes():
    assert Shape.of(["N", 448, 448, 3]) == Shape(0, 448, channels_first=False)
    assert Shape.of([1, 3, 384, 384]) == Shape(1, 384, channels_first=True)
    assert Shape.of([None, None, None, 3]) == Shape(0, 448, channels_first=False)


def test_numbers_that_models_take():
    prepared = np.array([[[0, 51, 255]]], dtype=np.uint8)
    assert model_input([prepared], Shape(0, 1, channels_first=False)).tolist() == [[[[0, 51, 255]]]]
    first = model_input([prepared], Shape(0, 1, channels_first=True))
    np.testing.assert_allclose(first[0, :, 0, 0], [-1, -0.6, 1], atol=1e-6)


def test_logits_become_probabilities():
    np.testing.assert_allclose(probabilities(np.array([[0.0, np.log(3)]])), [[0.5, 0.75]])
    assert probabilities(np.array([[0.25, 1.0]])).tolist() == [[0.25, 1.0]]


TAGS = TagList(
    ("general", "explicit", "red_sky", "^_^", "momo_(lora)", "green"),
    ("9", "9", "0", "0", "4", "0"),
)
SCORES = [0.2, 0.7, 0.5, 0.9, 0.86, 0.35]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "^_^, momo (lora), red sky, green"),
        ({"general_threshold": 0.6}, "^_^, momo (lora)"),
        ({"character_threshold": 0.87}, "^_^, red sky, green"),
        ({"character_tags": "first"}, "momo (lora), ^_^, red sky, green"),
        ({"character_tags": "none", "character_threshold": 0.0}, "^_^, red sky, green"),
        ({"rating_tag": "first"}, "explicit, ^_^, momo (lora), red sky, green"),
        ({"rating_tag": "last"}, "^_^, momo (lora), red sky, green, explicit"),
        ({"undesired": ["red sky, GREEN", "momo_(lora)"]}, "^_^"),
        ({"spaces": False}, "^_^, momo_(lora), red_sky, green"),
        ({"escape_brackets": True}, "^_^, momo \\(lora\\), red sky, green"),
    ],
)
def test_choosing_tags(settings, expected):
    assert choose_tags(TAGS, SCORES, TaggerConfig(**settings)) == expected


@pytest.mark.parametrize(
    "content", [b"", b"tag_id,label\n1,x\n", b"name,category\n", b"\xff\xfe\x00"]
)
def test_unusable_lists_of_tags(tmp_path, content):
    path = tmp_path / "selected_tags.csv"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"selected_tags\.csv"):
        read_tags(path)


def tagger(folder, **settings):
    [files] = TaggerFiles.find(folder)
    return WD14Tagger(files, TaggerConfig(**settings), source_of(lambda path: {}))


@pytest.fixture
def runtime():
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"batch": 1},
        {"batch": 3, "size": 8},
        {"channels_first": True},
        {"channels_first": True, "logits": True},
    ],
)
def test_a_graph_tags_by_its_arithmetic(tiny, tmp_path, kind):
    """sigmoid(0.02 * 200 - 2) = 0.88 for red sky, sigmoid(0.01 * 200 - 2) = 0.5 for the name."""
    model = tagger(tiny.write_tagger(tmp_path / "thin", **kind), character_threshold=0.49)
    red, blue = Image.new("RGB", (5, 5), (200, 0, 0)), Image.new("RGB", (5, 5), (0, 0, 200))
    prepared = [model.prepare(picture) for picture in (red, blue, red, blue)]
    assert model.caption(prepared) == ["red sky, momo (lora)", "blue (colour)"] * 2


@pytest.mark.usefixtures("runtime")
def test_a_list_of_another_model_is_refused(tiny, tmp_path):
    folder = tiny.write_tagger(tmp_path / "thin")
    tiny.write_tags(folder, tiny.TAGS[:-1])
    model = tagger(folder)
    with pytest.raises(CheckpointError, match="lists 6 tags but the model gives 7"):
        model.caption([model.prepare(Image.new("RGB", (4, 4)))])


@pytest.mark.usefixtures("runtime")
def test_a_damaged_graph_is_refused(tiny, tmp_path):
    folder = tiny.write_tagger(tmp_path / "thin")
    (folder / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(CheckpointError, match=r"model\.onnx can't be used"):
        tagger(folder).prepare(Image.new("RGB", (4, 4)))


def test_a_missing_runtime_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("lora_loop.core.captioning.wd14.find_spec", lambda name: None)
    files = TaggerFiles("thin", tmp_path / "t.csv", tmp_path / "model.onnx", None)
    with pytest.raises(CheckpointError, match="pip install onnxruntime"):
        choose_runtime(files)


def test_timm_tags_as_its_own_weights_do(tiny, tmp_path):
    """The other runtime, where it is installed: a thin vision transformer with random weights."""
    timm = pytest.importorskip("timm")
    import json

    from safetensors.torch import load_file, save_file

    facts = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": len(tiny.TAGS),
        "model_args": {"img_size": 32, "depth": 1, "embed_dim": 12, "num_heads": 2},
        "pretrained_cfg": {"input_size": [3, 32, 32]},
    }
    tiny.write_tags(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(facts), encoding="utf-8")
    with torch.random.fork_rng():
        torch.manual_seed(2)
        network = timm.create_model(
            facts["architecture"], num_classes=len(tiny.TAGS), **facts["model_args"]
        ).eval()
        torch.nn.init.normal_(network.head.weight, std=2.0)
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    [files] = TaggerFiles.find(tmp_path)
    config = TaggerConfig(general_threshold=0.5, character_threshold=0.5)
    model = WD14Tagger(files, config, source_of(load_file))
    prepared = model.prepare(Image.new("RGB", (32, 32), (200, 10, 10)))
    pixels = torch.from_numpy(prepared.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.no_grad():
        scores = network(pixels).sigmoid()[0].tolist()
    expected = choose_tags(read_tags(files.tags), scores, config)
    assert expected
    assert model.caption([prepared]) == [expected]
