import json
import pickle
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from lora_loop.core.cli.main import main
from lora_loop.core.cli.train import with_changes
from lora_loop.core.errors import ConfigError
from lora_loop.core.files.network_file import read_network


@pytest.fixture
def recipe_file(recipe, tmp_path) -> Path:
    path = tmp_path / "recipe.json"
    recipe.save(path)
    return path


def change(path: Path, section: str, **values) -> None:
    mapping = json.loads(path.read_text())
    mapping[section].update(values)
    path.write_text(json.dumps(mapping))


def refused(capsys, *arguments) -> str:
    """What the command says when it refuses."""
    assert main([str(argument) for argument in arguments]) == 2
    return capsys.readouterr().err


def test_the_loop_by_hand(recipe_file, tmp_path, capsys, thin_checkpoint):
    assert main(["train", str(recipe_file), "--plan"]) == 0
    assert "6 steps" in capsys.readouterr().out
    assert not list((tmp_path / "out").iterdir())
    assert main(["train", str(recipe_file)]) == 0
    network = tmp_path / "out" / "momo.safetensors"
    assert Image.open(tmp_path / "out" / "momo-loss.png").width > 100
    base = ["--checkpoint", str(thin_checkpoint)]
    drawing = ["--prompt", "momo", "--weights", "NONE", "--weights", "NOFACE", "--steps", "2"]
    assert main(["preview", str(network), *base, *drawing]) == 0
    grid = Image.open(tmp_path / "out" / "momo-grid.png")
    assert "lora_loop" in grid.info
    assert "parameters" in grid.info
    assert main(["bake", str(network), "--weights", "NOFACE"]) == 0
    baked = read_network(tmp_path / "out" / "momo-NOFACE.safetensors")
    assert 0 < len(baked.modules) < len(read_network(network).modules)
    assert "exists" in refused(capsys, "preview", network, *base, *drawing)
    assert "exists" in refused(capsys, "train", recipe_file)


def test_report_writes_a_sheet(pictures, tmp_path, capsys):
    sheet = tmp_path / "sheet.png"
    assert main(["report", str(pictures), "--resolution", "64", "--sheet", str(sheet)]) == 0
    assert "2_momo" in capsys.readouterr().out
    assert Image.open(sheet).width > 100


def test_recipe_prints_what_train_reads(tmp_path, capsys):
    assert main(["recipe", "pictures"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["dataset"]["folder"] == "pictures"
    assert printed["network"]["rank"] == 16


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        ("network", {"rnak": 4}, ["rnak", "did you mean 'rank'"]),
        ("network", {"rank": 0}, ["network.rank", "0"]),
        ("network", {"rank": 4.5}, ["network.rank", "4.5"]),
        ("network", {"unet": False, "text_encoder": False}, ["unet", "text_encoder"]),
        ("optimizer", {"unet_lr": -1}, ["optimizer.unet_lr", "-1"]),
        ("preview", {"presets": ["NOFACES"]}, ["NOFACES", "NOFACE"]),
        ("output", {"name": "../momo"}, ["output.name", "../momo"]),
        ("dataset", {"folder": "nowhere"}, ["nowhere"]),
        ("base", {"checkpoint": "nowhere.safetensors"}, ["nowhere.safetensors"]),
        ("base", {"zero_terminal_snr": "yes"}, ["zero_terminal_snr", "prediction"]),
    ],
)
def test_a_wrong_setting_is_named_before_any_work(
    recipe_file, tmp_path, capsys, section, values, words
):
    change(recipe_file, section, **values)
    said = refused(capsys, "train", recipe_file)
    for word in words:
        assert word in said
    assert not list(tmp_path.glob("out/*"))


def test_a_lora_given_as_the_checkpoint(recipe_file, tmp_path, capsys):
    assert main(["train", str(recipe_file)]) == 0
    lora = tmp_path / "out" / "momo.safetensors"
    change(recipe_file, "base", checkpoint=str(lora))
    change(recipe_file, "output", name="again")
    assert "LoRA" in refused(capsys, "train", recipe_file)


def test_damaged_checkpoints(recipe_file, tmp_path, capsys, thin_checkpoint):
    content = thin_checkpoint.read_bytes()
    short = tmp_path / "short.safetensors"
    short.write_bytes(content[: len(content) // 2])
    change(recipe_file, "base", checkpoint=str(short))
    assert "short.safetensors" in refused(capsys, "train", recipe_file)

    class Evil:
        def __reduce__(self):
            return Path.write_text, (tmp_path / "harm", "done")

    evil = tmp_path / "evil.ckpt"
    evil.write_bytes(pickle.dumps({"state_dict": Evil()}))
    change(recipe_file, "base", checkpoint=str(evil))
    assert "evil.ckpt" in refused(capsys, "train", recipe_file)
    assert not (tmp_path / "harm").exists()


def test_a_folder_that_is_no_folder(recipe_file, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    change(recipe_file, "output", folder=str(tmp_path / "file" / "out"))
    assert "output.folder" in refused(capsys, "train", recipe_file)


def test_a_read_only_folder(recipe_file, tmp_path, capsys, monkeypatch):
    def denied(self, content):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_bytes", denied)
    said = refused(capsys, "train", recipe_file)
    assert "Permission denied" in said
    assert "choose a folder" in said


def test_too_little_disk_is_said_before_the_training(recipe_file, capsys, monkeypatch):
    import shutil

    usage = shutil.disk_usage("/")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    assert "free" in refused(capsys, "train", recipe_file)


def test_bad_pictures_are_reported_at_the_start_and_the_end(
    recipe_file, tmp_path, capsys, pictures
):
    import shutil

    folder = shutil.copytree(pictures, tmp_path / "pictures")
    good = (folder / "2_momo" / "0.png").read_bytes()
    (folder / "2_momo" / "cut.png").write_bytes(good[: len(good) // 2])
    (folder / "2_momo" / "text.jpg").write_text("no picture")
    change(recipe_file, "dataset", folder=str(folder))
    assert main(["train", str(recipe_file)]) == 0
    said = capsys.readouterr().out
    assert said.count("cut.png") >= 2
    assert said.count("text.jpg") >= 2


def test_a_broken_network_file(tmp_path, capsys, thin_checkpoint):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"\x10\x00\x00")
    assert "broken.safetensors" in refused(capsys, "bake", broken, "--weights", "NOFACE")
    said = refused(capsys, "bake", thin_checkpoint, "--weights", "NOFACE")
    assert "not a LoRA" in said


def test_a_lora_of_another_model(recipe_file, tmp_path, capsys, checkpoints):
    assert main(["train", str(recipe_file)]) == 0
    other = checkpoints.write_sd1_checkpoint(
        tmp_path / "other.safetensors", shape=checkpoints.EMBEDDED_LIKE
    )
    network = tmp_path / "out" / "momo.safetensors"
    said = refused(capsys, "preview", network, "--checkpoint", other, "--prompt", "momo")
    assert "another base model" in said


def test_changes_on_the_command_line(recipe):
    changed = with_changes(recipe, ["network.rank=8", "output.name=other", "memory.precision=bf16"])
    assert changed == replace(
        recipe,
        network=replace(recipe.network, rank=8),
        output=replace(recipe.output, name="other"),
        memory=replace(recipe.memory, precision="bf16"),
    )
    for wrong in ("rank=8", "network.rank", "nothing.rank=8", "network.rnak=8"):
        with pytest.raises(ConfigError):
            with_changes(recipe, [wrong])


def test_files_are_readable_by_others(recipe_file, tmp_path):
    assert main(["train", str(recipe_file)]) == 0
    mode = (tmp_path / "out" / "momo.safetensors").stat().st_mode
    assert mode & stat.S_IRUSR
    assert not mode & stat.S_IXUSR
