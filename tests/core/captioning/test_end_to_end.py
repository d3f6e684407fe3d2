"""From the command line through real model files to captions on the disk."""

import pytest
from PIL import Image

from lora_loop.core.cli.main import main


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "set" / "2_momo"
    root.mkdir(parents=True)
    for name, colour in {"red": (200, 0, 0), "blue": (0, 0, 200)}.items():
        Image.new("RGB", (20, 20), colour).save(root / f"{name}.png")
    return root


def captions(folder):
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.txt")}


def test_tags_of_a_graph(tiny, folder, tmp_path, capsys):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    tiny.write_tagger(tmp_path / "models" / "wd14" / "thin")
    command = ["caption", str(folder.parent), "--models-folder", str(tmp_path / "models")]
    assert main([*command, "--model", "thin", "--trigger", "momo", "--rating-tag", "last"]) == 0
    assert captions(folder) == {
        "red": "momo, red sky, general\n",
        "blue": "momo, blue (colour), general\n",
    }
    assert "2 pictures: 2 captions written" in capsys.readouterr().out


@pytest.mark.parametrize("pickled", [False, True])
def test_sentences_of_a_blip(tiny, folder, tmp_path, pickled):
    tiny.write_blip(tmp_path / "models" / "thin", pickled=pickled)
    command = ["caption", str(folder), "--models-folder", str(tmp_path / "models")]
    settings = ["--captioner", "blip", "--method", "nucleus", "--max-length", "6"]
    assert main([*command, *settings, "--prompt", "a photo of", "--prefix", "momo"]) == 0
    said = captions(folder)
    assert all(text.startswith("momo, a photo of ") for text in said.values())
    assert main(["caption", str(folder), "--undo"]) == 0
    assert captions(folder) == {}
    assert main([*command, *settings, "--prompt", "a photo of", "--prefix", "momo"]) == 0
    assert captions(folder) == said


def test_a_pickle_with_code_in_it_is_not_run(tiny, folder, tmp_path, capsys):
    import os
    import pickle

    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    model = tiny.write_blip(tmp_path / "models" / "thin", pickled=True)
    (model / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    command = ["caption", str(folder), "--models-folder", str(tmp_path / "models")]
    assert main([*command, "--captioner", "blip"]) == 2
    assert "pytorch_model.bin" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()
    assert captions(folder) == {}


def test_a_preparation_that_is_damaged_is_named(tiny, folder, tmp_path, capsys):
    model = tiny.write_blip(tmp_path / "models" / "thin")
    (model / "preprocessor_config.json").write_text('{"image_mean": 3}', encoding="utf-8")
    command = ["caption", str(folder), "--models-folder", str(tmp_path / "models")]
    assert main([*command, "--captioner", "blip"]) == 2
    assert "preprocessor_config.json" in capsys.readouterr().err
