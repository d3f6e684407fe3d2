"""What the Blocks page finds out about blocks, keeps under a name, and draws over axes."""

from dataclasses import replace

import pytest

pytest.importorskip("gradio", reason="no gradio: install the extra `ui`")

from PIL import Image, ImageDraw

from lora_loop.core.config import PreviewConfig
from lora_loop.core.errors import ConfigError, FileError
from lora_loop.core.session import Axis, study
from lora_loop.extension.gradio_versions import painted
from lora_loop.extension.redraw import Easel
from lora_loop.extension.study import Study

PREVIEW = PreviewConfig(prompts=("momo",), presets=("NONE", "ALL"), steps=1)


@pytest.fixture
def easel(desk, recipe, over):
    assert over(desk.train(replace(recipe, preview=PREVIEW))).error == ""
    return Easel(desk)


@pytest.fixture
def mask():
    found = Image.new("L", (128, 128))
    ImageDraw.Draw(found).rectangle((0, 0, 63, 127), fill=255)
    return found


def test_blocks_are_measured_on_noise_and_on_the_trainings_pictures(easel, over):
    asked = Study(easel, "en")
    for on_pictures in (False, True):
        job = over(asked.measure(1, on_pictures=on_pictures))
        assert (job.state, job.error) == ("done", "")
        assert "OUT03" in job.result.text
        assert all(path.is_file() for path in job.result.files)
    names = sorted(path.name for path in easel.live().path.parent.glob("momo-blocks*"))
    assert names == ["momo-blocks-2.png", "momo-blocks.png"]


def test_each_block_is_drawn_inside_and_outside_of_a_mask(easel, mask, over):
    job = over(Study(easel, "zh").analyze(PREVIEW, 0.0, mask))
    assert (job.state, job.error) == ("done", "")
    assert "部位内" in job.result.text
    ends = [path.suffix for path in job.result.files]
    assert ends == [".png", ".png", ".html"]


def test_a_suggestion_is_weights_with_their_proof(easel, mask, over):
    asked = Study(easel, "en")
    with pytest.raises(ConfigError, match="nothing is painted"):
        asked.suggest(PREVIEW, None, study.Kept(0.4, 0.95), 1)
    with pytest.raises(ConfigError, match="seeds is 0"):
        asked.suggest(PREVIEW, mask, study.Kept(0.4, 0.95), 0)
    job = over(asked.suggest(PREVIEW, mask, study.Kept(inside=0.4, outside=0.95), 1))
    assert (job.state, job.error) == ("done", "")
    assert "asked for: at least 95 %" in job.result.text
    assert easel.weights(job.result.weights.text()).ratios
    assert job.result.picture.width > 128


def test_questions_wait_for_no_training(easel, desk, recipe):
    gate = desk.board.submit("train", "x", lambda controls: [*iter(controls.stop, True)])
    while desk.board.current() is not gate:
        pass
    with pytest.raises(ConfigError, match="is being trained"):
        Study(easel, "en").measure(1, on_pictures=False)
    desk.board.stop(gate.number)


def test_presets_of_ones_own_are_used_everywhere(easel, desk, over):
    desk.presets.save("MINE", "M00=1, OUT03=0.5")
    assert easel.preset_names()[0] == "MINE"
    assert easel.weights("MINE").ratio("OUT03") == 0.5
    grid, file = over(easel.grid(replace(PREVIEW, presets=("MINE", "ALL")))).result
    assert [label.title for label in grid.table.columns] == ["MINE", "ALL"]
    assert file.with_suffix(".html").is_file()
    baked = desk.bake(easel.live().path, "MINE", "momo-mine")
    assert baked.file.path.is_file()
    x = Axis.of("weights", "MINE\nNONE")
    y = Axis.of("seed", "1, 2")
    grid, _ = over(easel.axes(PREVIEW, "ALL", x, y)).result
    assert (len(grid.cells), len(grid.cells[0])) == (2, 2)


def test_axes_are_read_before_anything_waits(easel):
    values, blocks = Axis.of("values", "0, x"), Axis.of("blocks", "M00")
    with pytest.raises(ConfigError):
        easel.axes(PREVIEW, "ALL", values, blocks)
    with pytest.raises(FileError, match="no network file"):
        easel.axes(PREVIEW, "ALL", Axis.of("network", "../other.safetensors"), Axis())


def test_what_is_painted_is_white(mask):
    assert painted(None) is None
    assert painted({"image": mask, "mask": Image.new("RGB", (8, 8))}) is None
    old = painted({"image": mask, "mask": mask.convert("RGB")})
    layer = Image.new("RGBA", mask.size, (255, 0, 0, 0))
    layer.paste((0, 0, 0, 255), mask=mask)
    new = painted({"background": None, "layers": [layer], "composite": None})
    assert old.tobytes() == new.tobytes() == mask.tobytes()
