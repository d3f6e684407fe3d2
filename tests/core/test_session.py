import hashlib
import itertools
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lora_loop.core import session
from lora_loop.core.adapters.block_weights import BlockWeights
from lora_loop.core.config.recipe import PreviewConfig
from lora_loop.core.errors import FileError, TrainerError
from lora_loop.core.events import Finished, Saved, StepDone
from lora_loop.core.files import network_file
from lora_loop.core.files.resume import state_paths
from lora_loop.core.preview.grid import GridRequest
from lora_loop.core.preview.sampling import DrawSettings, Prompt, draw

CPU = torch.device("cpu")
SETTINGS = DrawSettings(width=64, height=64, steps=3, guidance=3.0, seed=7)
PROMPTS = (Prompt("momo, picture 1"), Prompt("a red circle"))


def open_base(recipe):
    return session.open_base(recipe.base, recipe.memory, CPU)


def train(recipe, *, start="new", on_event=lambda event: None, stop=lambda: False):
    plan = session.make_plan(recipe, start)
    base = open_base(recipe)
    return base, session.run(plan, base, start=start, on_event=on_event, stop=stop)


def named(recipe, name, **changes):
    return replace(recipe, output=replace(recipe.output, name=name, **changes))


def content(path: Path) -> dict[str, torch.Tensor]:
    file = network_file.read_network(path)
    return {
        f"{key}.{part}": tensor
        for key, module in file.modules.items()
        for part, tensor in zip(("down", "up"), module[:2], strict=True)
    }


def same_weights(one: Path, other: Path) -> bool:
    first, second = content(one), content(other)
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


def levels(pictures):
    return [np.asarray(picture, np.int16) for picture in pictures]


def difference(ours, theirs) -> int:
    return max(int(np.abs(a - b).max()) for a, b in zip(levels(ours), levels(theirs), strict=True))


def stop_after(count: int):
    calls = itertools.count()
    return lambda: next(calls) >= count


def test_equal_recipes_make_equal_files(recipe):
    _, one = train(recipe)
    again = replace(recipe, output=replace(recipe.output, folder=recipe.output.folder + "2"))
    _, two = train(again)
    digests = {hashlib.sha256(t.path.read_bytes()).hexdigest() for t in (one, two)}
    assert len(digests) == 1
    _, other = train(
        replace(
            named(recipe, "other"), training=replace(recipe.training, seed=recipe.training.seed + 1)
        )
    )
    assert not same_weights(one.path, other.path)


def test_a_preview_on_the_way_changes_nothing(recipe, tmp_path):
    _, straight = train(recipe)
    looked = replace(
        named(recipe, "looked"),
        preview=PreviewConfig(prompts=("momo",), every=2, steps=2, width=64, height=64),
    )
    _, with_previews = train(looked)
    assert same_weights(straight.path, with_previews.path)
    samples = sorted(path.name for path in (tmp_path / "out" / "looked-samples").iterdir())
    assert samples == ["step-00000002.png", "step-00000004.png", "step-00000006.png"]


def test_stopped_at_any_step_and_resumed_equals_straight(recipe, tmp_path):
    long = replace(recipe, training=replace(recipe.training, max_steps=21, gradient_accumulation=2))
    states = tmp_path / "states"
    states.mkdir()
    newest, _ = state_paths(tmp_path / "out" / "straight.safetensors")

    def copy_state(event):
        if isinstance(event, Saved) and event.kind == "state":
            shutil.copy(newest, states / f"{len(list(states.iterdir())) + 1:03}")

    _, straight = train(named(long, "straight", state_every=1), on_event=copy_state)
    assert not newest.exists()  # a finished training leaves none
    for step in random.Random(1).sample(range(1, 21), 20):
        name = f"from{step}"
        resumed_state, _ = state_paths(tmp_path / "out" / f"{name}.safetensors")
        shutil.copy(states / f"{step:03}", resumed_state)
        _, resumed = train(named(long, name), start="resume")
        assert same_weights(straight.path, resumed.path), f"stopped at {step}"
        assert resumed.history.losses == straight.history.losses


def test_stopping_keeps_a_network_and_a_state(recipe, tmp_path):
    events = []
    _, stopped = train(recipe, on_event=events.append, stop=stop_after(8))
    taken = stopped.steps
    assert 0 < taken < 6
    assert stopped.stopped
    assert stopped.path.name == f"momo-step{taken:08d}.safetensors"
    assert isinstance(events[-1], Finished)
    assert events[-1].stopped
    with pytest.raises(FileError, match="--resume"):
        session.make_plan(recipe)
    _, resumed = train(recipe, start="resume")
    _, straight = train(named(recipe, "straight"))
    assert same_weights(resumed.path, straight.path)
    assert resumed.path.name == "momo.safetensors"
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        f"momo-step{taken:08d}.safetensors",
        "momo.safetensors",
        "straight.safetensors",
    ]


def test_stopped_before_the_first_step_leaves_nothing(recipe, tmp_path):
    _, stopped = train(recipe, stop=lambda: True)
    assert stopped.path is None
    assert stopped.steps == 0
    assert list((tmp_path / "out").iterdir()) == []


def test_killed_and_resumed_equals_straight(recipe, tmp_path):
    killed = named(
        replace(recipe, training=replace(recipe.training, max_steps=40)), "killed", state_every=3
    )
    path = tmp_path / "recipe.json"
    killed.save(path)
    root = Path(session.__file__).resolve().parents[1]
    code = (
        "import importlib.util, sys; spec = importlib.util.spec_from_file_location('lora_loop', "
        f"{str(root / '__init__.py')!r}, submodule_search_locations=[{str(root)!r}]); "
        "sys.modules['lora_loop'] = module = importlib.util.module_from_spec(spec); "
        "spec.loader.exec_module(module); from lora_loop.core.cli.main import main; "
        f"main(['train', {str(path)!r}, '--device', 'cpu'])"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=-3, stderr=-3)
    newest, _ = state_paths(tmp_path / "out" / "killed.safetensors")
    for _ in range(6000):
        if newest.exists() or process.poll() is not None:
            break
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert newest.exists()
    _, resumed = train(killed, start="resume")
    _, straight = train(named(killed, "straight", state_every=0))
    assert same_weights(resumed.path, straight.path)


@pytest.mark.parametrize("section", ["recipe", "dataset", "base"])
def test_a_state_of_something_else_is_refused_by_name(recipe, section, tmp_path, pictures):
    train(recipe, stop=stop_after(8))
    if section == "recipe":
        changed = replace(recipe, network=replace(recipe.network, alpha=1.0))
        words = "the recipe changed"
    elif section == "dataset":
        copied = shutil.copytree(pictures, tmp_path / "copy")
        (copied / "2_momo" / "0.txt").write_text("another caption")
        changed = replace(recipe, dataset=replace(recipe.dataset, folder=str(copied)))
        words = "the dataset changed"
    else:
        copied = tmp_path / "other.safetensors"
        data = bytearray(Path(recipe.base.checkpoint).read_bytes())
        data[-2] ^= 1
        copied.write_bytes(data)
        changed = replace(recipe, base=replace(recipe.base, checkpoint=str(copied)))
        words = "the base model changed"
    with pytest.raises(FileError, match=words):
        train(changed, start="resume")
    train(recipe, start="resume")  # and it was not harmed by the attempt


def test_none_is_the_base_all_is_the_plain_network_and_baked_equals_live(recipe, tmp_path):
    base, trained = train(recipe)
    untouched = draw(open_base(recipe), PROMPTS, SETTINGS)
    with trained.network.attached(base.parts):
        plain = draw(base, PROMPTS, SETTINGS)
    vector = "1,0.5,0.2,1,0,1,1,1,0,0,0,1,1,0.7,1,1,1"
    request = GridRequest(
        prompts=PROMPTS, presets=("NONE", "ALL", "NOFACE", vector), settings=SETTINGS
    )
    grid = session.preview(base, trained.network, request)
    columns = list(zip(*grid.cells, strict=True))
    assert difference(columns[0], untouched) == 0
    assert difference(columns[1], plain) == 0
    assert difference(columns[1], untouched) > 8
    for column, weights in ((columns[2], "NOFACE"), (columns[3], vector)):
        bake = session.Bake(weights=weights)
        target = tmp_path / f"{len(weights)}.safetensors"
        written = session.bake_file(trained.path, bake, target).file
        network = session.open_network(base, written.path)
        with network.attached(base.parts):
            assert difference(draw(base, PROMPTS, SETTINGS), column) <= 1
        assert difference(column, plain) > 1
    after = draw(base, PROMPTS, SETTINGS)
    assert difference(after, untouched) == 0  # nothing stays behind in the base model


def test_a_baked_file_holds_only_what_is_left(recipe):
    _, trained = train(recipe)
    written = session.bake_file(trained.path, session.Bake(weights="FACE")).file
    assert written.path.name == "momo-FACE.safetensors"
    kept = network_file.read_network(written.path)
    blocks = dict(BlockWeights.parse("FACE").ratios)
    from lora_loop.core.adapters.blocks import block_of

    assert {blocks[block_of(key)] for key in kept.modules} == {1.0}
    assert kept.metadata["ss_network_dim"] == "2"
    with pytest.raises(FileError, match="exists"):
        session.bake_file(trained.path, session.Bake(weights="FACE"))
    with pytest.raises(TrainerError, match="nothing is left"):
        session.bake_file(trained.path, session.Bake(weights="NONE"))


def test_a_full_disk_at_the_end_loses_nothing(recipe, tmp_path, monkeypatch):
    refuge = tmp_path / "refuge"
    refuge.mkdir()
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(refuge))
    real = network_file.write_file

    def full(path, tensors, metadata):
        if path.parent != refuge:
            path.write_bytes(b"half")
            raise OSError(28, "No space left on device")
        real(path, tensors, metadata)

    monkeypatch.setattr(network_file, "write_file", full)
    with pytest.raises(FileError, match="disk is full") as caught:
        train(recipe)
    saved = next(refuge.iterdir())
    assert str(saved) in str(caught.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["momo.resume-state"]
    monkeypatch.undo()
    _, straight = train(named(recipe, "straight"))
    assert same_weights(saved, straight.path)
    _, resumed = train(recipe, start="resume")  # all steps were taken: it only writes the file
    assert same_weights(saved, resumed.path)


def test_a_diverging_training_says_so_and_keeps_its_state(recipe, tmp_path, monkeypatch):
    from lora_loop.core.train import trainer

    real, calls = trainer.denoising_loss, itertools.count()

    def broken(*arguments):
        loss = real(*arguments)
        return loss * float("nan") if next(calls) == 3 else loss

    monkeypatch.setattr(trainer, "denoising_loss", broken)
    with pytest.raises(TrainerError, match="diverged"):
        train(recipe)
    monkeypatch.undo()
    _, resumed = train(recipe, start="resume")
    _, straight = train(named(recipe, "straight"))
    assert same_weights(resumed.path, straight.path)


def test_the_base_model_is_put_back_after_an_error(recipe, monkeypatch):
    base = open_base(recipe)
    before = {name: id(module) for name, module in base.unet.named_modules()}
    weights = {name: tensor.clone() for name, tensor in base.unet.state_dict().items()}

    def explode(*_arguments):
        raise MemoryError

    monkeypatch.setattr("lora_loop.core.train.trainer.denoising_loss", explode)
    with pytest.raises(MemoryError):
        session.run(session.make_plan(recipe), base)
    assert {name: id(module) for name, module in base.unet.named_modules()} == before
    for name, tensor in base.unet.state_dict().items():
        assert torch.equal(tensor, weights[name])
        assert not tensor.requires_grad


def test_every_step_is_told_with_its_true_numbers(recipe):
    events = []
    train(recipe, on_event=events.append)
    steps = [event for event in events if isinstance(event, StepDone)]
    assert [event.step for event in steps] == [1, 2, 3, 4, 5, 6]
    assert all(event.steps == 6 for event in steps)
    assert steps[-1].images <= 12
    assert [event.images for event in steps] == sorted(event.images for event in steps)


def test_gradient_checkpointing_trains_the_same(recipe):
    _, plain = train(recipe)
    saving = replace(
        named(recipe, "saving"), memory=replace(recipe.memory, gradient_checkpointing=True)
    )
    base, checkpointed = train(saving)
    one, other = content(plain.path), content(checkpointed.path)
    for key in one:
        torch.testing.assert_close(one[key], other[key], rtol=1e-4, atol=1e-5)
    assert not base.unet.is_gradient_checkpointing
    assert not base.unet.training


def test_bf16_trains_and_masters_stay_fp32(recipe):
    half = replace(recipe, memory=replace(recipe.memory, precision="bf16"))
    _, trained = train(half)
    assert {p.dtype for p in trained.network.named_parameters().values()} == {torch.float32}
    assert all(np.isfinite(trained.history.losses))


def test_a_nearly_full_disk_at_a_stop_still_keeps_the_network(recipe, monkeypatch):
    from lora_loop.core.files import resume

    def full(path, tensors, metadata):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "write_file", full)
    with pytest.raises(FileError, match="disk is full"):
        train(recipe, stop=stop_after(8))
    kept = list(Path(recipe.output.folder).glob("momo-step*.safetensors"))
    assert len(kept) == 1
    assert network_file.read_network(kept[0]).modules


def test_a_state_that_cant_be_written_on_the_way_does_not_end_the_training(recipe, monkeypatch):
    from lora_loop.core.files import resume

    def full(path, tensors, metadata):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(resume, "write_file", full)
    _, trained = train(named(recipe, "momo", state_every=2))
    assert trained.path is not None
    assert not trained.stopped


def test_an_unfit_network_never_gets_its_name(recipe, monkeypatch):
    def unfit(base, path):
        raise FileError("the trained network changes nothing")

    monkeypatch.setattr("lora_loop.core.train.saving.require_effect", unfit)
    with pytest.raises(FileError, match="changes nothing"):
        train(recipe)
    assert not Path(recipe.output.folder, "momo.safetensors").exists()
    monkeypatch.undo()
    _, resumed = train(recipe, start="resume")  # its steps were kept
    assert resumed.steps == 6


def test_the_checkpoint_may_be_gone_at_the_end(recipe, tmp_path):
    moved = tmp_path / "moved.safetensors"
    shutil.copy(recipe.base.checkpoint, moved)
    gone = replace(recipe, base=replace(recipe.base, checkpoint=str(moved)))
    _, trained = train(gone, on_event=lambda event: moved.unlink(missing_ok=True))
    assert trained.path.exists()


def test_what_lies_beside_a_network_is_not_overwritten(recipe):
    _, trained = train(recipe)
    plot = session.write_loss_plot(trained, trained.path)
    trained.path.unlink()
    before = plot.read_bytes()
    with pytest.raises(FileError, match=r"momo-loss\.png exists"):
        session.make_plan(recipe)
    assert plot.read_bytes() == before


def test_a_host_paints_previews_with_the_live_network(recipe):
    prompts = ("momo", "a red circle")
    sampled = replace(recipe, preview=PreviewConfig(prompts=prompts, every=3))
    base = open_base(sampled)
    seen = []

    def paint(network):
        tensors = session.network_tensors(network, base.family.key)
        seen.append({name: (tensor, tensor.clone()) for name, tensor in tensors.items()})
        return [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]

    trained = session.run(session.make_plan(sampled), base, paint=paint)
    assert len(seen) == 2
    first, last = seen
    up = next(name for name in last if name.endswith(".lora_up.weight"))
    assert not torch.equal(first[up][1], last[up][1])  # it was trained in between
    assert torch.equal(first[up][0], last[up][0])  # and both share its memory
    written = content(trained.path)
    shown = {
        name.replace(".lora_", ".").removesuffix(".weight"): t for name, (t, _) in last.items()
    }
    assert {name: shown[name].float().tolist() for name in written} == {
        name: tensor.tolist() for name, tensor in written.items()
    }
    row = Image.open(session.samples_folder(trained.path) / "step-00000006.png")
    assert row.size == (16, 8)
    assert row.getpixel((0, 0)) == (255, 0, 0)
