"""From a recipe to a redrawn block, without a page."""

from dataclasses import replace

import pytest

from lora_loop.core import session
from lora_loop.core.config import PreviewConfig
from lora_loop.core.errors import CheckpointError, ConfigError, FileError
from lora_loop.core.events import StepDone
from lora_loop.core.session import workbench
from lora_loop.extension.desk import Desk
from lora_loop.extension.hosts.protocol import Folders
from lora_loop.extension.hosts.standalone import Choices, StandaloneHost
from lora_loop.extension.redraw import Easel

PREVIEW = PreviewConfig(prompts=("momo", "a star"), presets=("ALL", "OUTD"), steps=2, guidance=1.0)


def pixels(pictures):
    return [picture.tobytes() for picture in pictures]


def test_the_whole_loop(desk, recipe, over, monkeypatch):
    job = over(desk.train(replace(recipe, preview=PREVIEW)))
    assert (job.state, job.error) == ("done", "")
    path = desk.live.path
    assert path.name == "momo.safetensors"
    assert (path.parent / "momo-grid.png").is_file()
    assert desk.stopped.waiting() == {}
    assert desk.next_name(recipe) == "momo-2"

    easel = Easel(desk)
    assert easel.order() == workbench.ATTENTION_BLOCKS
    none = over(easel.redraw(easel.weights("NONE"), PREVIEW)).result
    assert pixels(none.chosen) == pixels(none.alone) != pixels(none.whole)
    one = over(easel.redraw(easel.weights("M00=1"), PREVIEW)).result
    assert one.whole is none.whole  # not drawn twice
    monkeypatch.setattr(workbench, "draw_with", lambda *_: pytest.fail("it was drawn before"))
    again = over(easel.redraw(easel.weights("M00=1"), PREVIEW)).result
    assert again.chosen is one.chosen
    monkeypatch.undo()
    grid, file = over(easel.grid(PREVIEW)).result
    assert (len(grid.cells), len(grid.cells[0])) == (2, 2)
    assert file.name == "momo-grid-2.png"

    baked = desk.bake(path, easel.weights("M00=1"), "momo-middle").file.path
    assert workbench.describe_network(baked).metadata["lora_loop.baked_block_weights"]
    random = "ALL=1, M00=R"
    baked_random = desk.bake(path, random, "momo-random", 7).file.path
    kept = workbench.describe_network(baked_random).metadata["lora_loop.baked_block_weights"]
    assert kept == easel.weights(random, 7).text()
    with pytest.raises(FileError, match="exists"):
        desk.bake(path, "NOFACE", "momo-middle")
    with pytest.raises(ConfigError, match="new file's name"):
        desk.bake(path, "NOFACE", "../momo")
    assert over(desk.open_file(baked, recipe.base, recipe.memory)).error == ""
    assert set(desk.live.network.blocks()) == {"M00"}
    other = desk.recipe_of(path, replace(recipe, network=replace(recipe.network, rank=7)))
    assert (other.network.rank, other.output.name) == (2, "momo-2")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (RuntimeError("CUDA out of memory"), "memory is full"),
        (ConfigError("no such preset"), "no such preset"),
    ],
)
def test_a_training_is_done_also_where_its_last_picture_fails(
    desk, host, recipe, over, monkeypatch, error, words
):
    def preview(*_):
        raise error

    monkeypatch.setattr(session, "preview", preview)
    monkeypatch.setattr(host, "language", lambda: "zh")
    job = over(desk.train(replace(recipe, preview=PREVIEW)))
    assert (job.state, job.error) == ("done", "")
    assert desk.live.path.is_file()
    assert desk.stopped.waiting() == {}
    finding = job.progress.snapshot().findings[-1]
    assert finding.level == "warning"
    assert "训练已完成并保存" in finding.text
    assert words in finding.text


def test_a_stopped_training_is_offered_to_the_next_program_and_goes_on(desk, host, recipe, over):
    longer = replace(recipe, training=replace(recipe.training, max_steps=3))

    def stop(event):
        if isinstance(event, StepDone) and event.step == 1:
            desk.board.stop(desk.board.current().number)

    host.show = stop
    desk.rebind(host)
    job = over(desk.train(longer))
    assert (job.state, job.error) == ("stopped", "")
    assert desk.live.path.name == "momo-step00000001.safetensors"

    later = Desk(StandaloneHost(Choices(folders=host.folders())))
    assert later.stopped.waiting() == {"momo": longer}
    with pytest.raises(FileError, match="waits"):
        later.train(longer)
    job = over(later.train(later.stopped.waiting()["momo"], "resume"))
    assert (job.state, job.error) == ("done", "")
    assert job.progress.snapshot().first_step == 2
    assert later.live.path.name == "momo.safetensors"
    assert later.stopped.waiting() == {}


def test_a_name_is_given_once_in_the_queue(desk, recipe, over):
    gate = desk.board.submit("read", "x", lambda controls: [*iter(controls.stop, True)])
    first = desk.train(recipe)
    with pytest.raises(ConfigError, match="already waiting"):
        desk.train(recipe)
    assert desk.next_name(recipe) == "momo-2"
    desk.board.stop(first.number)
    desk.board.stop(gate.number)
    over(gate)


def test_a_dataset_is_read_again_only_where_it_has_changed(desk, recipe, pictures, tmp_path):
    first = desk.dataset(recipe.dataset)
    assert desk.dataset(replace(recipe.dataset, resolution=128)) is first
    caption = pictures / "2_momo" / "1.txt"
    before = caption.read_text()
    try:
        caption.write_text("momo, a very red one")
        second = desk.dataset(recipe.dataset)
    finally:
        caption.write_text(before)
    assert second is not first
    assert "momo, a very red one" in second.captions


def test_settings_are_remembered_for_the_next_page(desk, recipe):
    desk.remember(recipe)
    assert desk.first_recipe() == recipe
    (desk.host.folders().data / "last-recipe.json").write_text("{")
    assert desk.first_recipe().dataset.folder == "?"


def test_visitors_train_in_opened_folders_alone(tmp_path, recipe):
    folders = Folders(
        networks=tmp_path / "networks", data=tmp_path / "data", allowed=(tmp_path / "networks",)
    )
    desk = Desk(StandaloneHost(Choices(folders=folders)))
    with pytest.raises(FileError, match="lies outside"):
        desk.train(recipe)
    assert desk.board.jobs() == []


def test_a_host_without_a_checkpoint_says_what_to_do(desk, host, monkeypatch):
    monkeypatch.setattr(host, "checkpoints", lambda: ())
    with pytest.raises(CheckpointError, match="choose one at the top"):
        desk.fixed()
    monkeypatch.setattr(host, "loaded_checkpoint", lambda: "/models/x.safetensors")
    assert desk.fixed() == {"base.checkpoint": "/models/x.safetensors"}


def test_without_a_network_there_is_nothing_to_draw(desk):
    with pytest.raises(ConfigError, match="train one, or open a file"):
        Easel(desk).weights("ALL")


def test_drawing_waits_for_no_training(desk, recipe, over):
    desk.live = object()
    gate = desk.board.submit("train", "x", lambda controls: [*iter(controls.stop, True)])
    while desk.board.current() is None:
        gate.over.wait(0.01)
    with pytest.raises(ConfigError, match="is being trained"):
        Easel(desk).submit("redraw", desk.live, None)
    desk.board.stop(gate.number)
    over(gate)
