"""Whole trainings on thin SD2 (v) and SDXL checkpoints: file, effect, preview."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lora_loop.core import session
from lora_loop.core.adapters.network import Network
from lora_loop.core.config.recipe import Recipe
from lora_loop.core.data.batches import BatchPlan
from lora_loop.core.data.buckets import BucketRules, lay_out
from lora_loop.core.data.items import Dataset, ImageItem
from lora_loop.core.errors import FileError
from lora_loop.core.files import network_file
from lora_loop.core.models.base_model import BaseModel
from lora_loop.core.preview.grid import GridRequest
from lora_loop.core.preview.sampling import DrawSettings, Prompt
from lora_loop.core.train.encode import Pictures, time_ids

CPU = torch.device("cpu")
LINEAR = {"modelspec.resolution": "64x64"}
METADATA = {
    "sd2": LINEAR | {"modelspec.architecture": "stable-diffusion-v2-768-v"},
    "sdxl": LINEAR,
}
# every module's layer in the file, by its beginning: how many there are
COUNTS = {
    # 10 transformers of one block (8 attention, 2 feed-forward, 2 projections), 2 layers of text
    "sd2": {"lora_unet_": 10 * 12, "lora_te_": 2 * 6},
    # 5 of one block, 6 of two; all 3 layers of both text encoders
    "sdxl": {"lora_unet_": 5 * 12 + 6 * 22, "lora_te1_": 3 * 6, "lora_te2_": 3 * 6},
}
SGM = re.compile(r"lora_unet_(input_blocks_\d_1|middle_block_1|output_blocks_\d_1)_")


@pytest.fixture(scope="session")
def thin(tmp_path_factory, checkpoints) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("families")

    def path(family: str) -> Path:
        names = {"sd2": checkpoints.sd2_names, "sdxl": checkpoints.sdxl_names}[family]()
        file = folder / f"{family}.safetensors"
        if not file.exists():
            checkpoints.write_checkpoint(file, names, 3, torch.float32, METADATA[family])
        return file

    return path


def on_base(recipe: Recipe, path: Path, **network: bool) -> Recipe:
    return replace(
        recipe,
        base=replace(recipe.base, checkpoint=str(path)),
        network=replace(recipe.network, **network),
        training=replace(recipe.training, max_steps=4),
    )


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_a_training_ends_in_a_network_that_draws(recipe, thin, family):
    recipe = on_base(recipe, thin(family))
    plan = session.make_plan(recipe)
    base = session.open_base(recipe.base, recipe.memory, CPU)
    assert base.prediction == {"sd2": "v", "sdxl": "epsilon"}[family]
    trained = session.run(plan, base)
    assert trained.path is not None
    assert trained.path.stat().st_size <= plan.file_bytes
    file = network_file.read_network(trained.path)
    found = {start: sum(key.startswith(start) for key in file.modules) for start in COUNTS[family]}
    assert found == COUNTS[family]
    assert sum(found.values()) == len(file.modules)
    version = {"sd2": "sd_v2_v", "sdxl": "sdxl_base_v1-0"}[family]
    assert file.metadata["ss_base_model_version"] == version
    assert file.metadata["ss_v2"] == str(family == "sd2")
    unet = [key for key in file.modules if key.startswith("lora_unet_")]
    assert all(bool(SGM.match(key)) == (family == "sdxl") for key in unet)
    assert moved(file, "lora_unet_") == set(unet)
    opened = session.open_network(base, trained.path)
    assert isinstance(opened, Network)
    assert set(opened.paths) == set(trained.network.paths)
    for path, weights in opened.weights().items():
        own = trained.network.weights()[path]
        assert torch.equal(weights.up_OR, own.up_OR)
        assert torch.equal(weights.down_RI, own.down_RI)
    settings = DrawSettings(width=64, height=64, steps=2, guidance=3.0)
    request = GridRequest(
        prompts=(Prompt("momo, picture 1", "bad"),),
        presets=("ALL", "NONE", "ALL=1, BASE=0"),
        settings=settings,
    )
    grid = session.preview(base, opened, request)
    live = session.preview(base, trained.network, request)
    assert [c.tobytes() for c in grid.cells[0]] == [c.tobytes() for c in live.cells[0]]
    assert len({cell.tobytes() for cell in grid.cells[0]}) == 3


def test_a_lora_of_another_family_is_refused(recipe, thin):
    """By the names of its modules, and by its metadata where these are the same."""
    files = {}
    for family in ("sd2", "sdxl"):
        own = on_base(recipe, thin(family))
        own = replace(own, output=replace(own.output, name=family))
        base = session.open_base(own.base, own.memory, CPU)
        files[family] = session.run(session.make_plan(own), base).path
    sd1 = session.open_base(recipe.base, recipe.memory, CPU)
    with pytest.raises(FileError, match=r"made for Stable Diffusion XL, .* of its family"):
        session.open_network(sd1, files["sdxl"])
    with pytest.raises(FileError, match=r"made for Stable Diffusion 2\.x"):
        session.open_network(sd1, files["sd2"])


def moved(file, start: str) -> set[str]:
    """Modules that a training has moved: `up` begins at zero."""
    return {
        key for key, module in file.modules.items() if key.startswith(start) and module[1].any()
    }


def test_both_text_encoders_are_trained_and_only_what_is_read_of_them(recipe, thin):
    recipe = on_base(recipe, thin("sdxl"))
    base = session.open_base(recipe.base, recipe.memory, CPU)
    trained = session.run(session.make_plan(recipe), base)
    file = network_file.read_network(trained.path)
    first = {key for key in file.modules if key.startswith("lora_te1_")}
    # the first encoder's last layer is never read; the second's gives the pooled vector
    assert moved(file, "lora_te1_") == {key for key in first if "_layers_2_" not in key}
    second = {key for key in file.modules if key.startswith("lora_te2_")}
    assert moved(file, "lora_te2_") == second


@pytest.mark.parametrize("text_encoder", [True, False])
@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_every_picture_is_told_with_its_own_sizes(recipe, thin, monkeypatch, family, text_encoder):
    recipe = on_base(recipe, thin(family), text_encoder=text_encoder)
    plan = session.make_plan(recipe)
    base = session.open_base(recipe.base, recipe.memory, CPU)
    told: list[torch.Tensor | None] = []
    real = BaseModel.predict

    def watched(self, xt, timestep, condition, sizes=None):
        if torch.is_grad_enabled():
            told.append(sizes)
            pixels = torch.tensor(xt.shape[-2:]) * 8
            assert sizes is None or torch.equal(sizes[:, 4:], pixels.expand(len(xt), 2))
        return real(self, xt, timestep, condition, sizes)

    monkeypatch.setattr(BaseModel, "predict", watched)
    session.run(plan, base)
    assert len(told) == 4
    if family == "sd2":
        assert told == [None] * 4
        return
    rows = {tuple(row) for sizes in told if sizes is not None for row in sizes.tolist()}
    known = {tuple(row) for row in time_ids(plan.pictures).tolist()}
    assert len(known) == 3  # two of the four pictures are alike
    assert rows == known


def pictures_of(*sizes: tuple[int, int], resolution: int = 1024) -> Pictures:
    items = tuple(
        ImageItem(
            path=Path(f"{number}.png"),
            caption="",
            has_caption=False,
            repeats=1,
            concept="",
            width=width,
            height=height,
            alpha=False,
            sha256="",
        )
        for number, (width, height) in enumerate(sizes)
    )
    buckets = lay_out(items, resolution, BucketRules())
    batches: BatchPlan = None  # pyright: ignore[reportAssignmentType]
    return Pictures(Dataset(Path(), items, ()), buckets, batches)


def test_time_ids_are_those_of_the_true_resize_and_crop():
    found = time_ids(pictures_of((1920, 1080), (1024, 1024), (1080, 1920))).tolist()
    # 1920 x 1080 is resized to 1479 x 832, of which 131 columns on the left fall away
    assert found[1] == [1024, 1024, 0, 0, 1024, 1024]
    wide, tall = found[0], found[2]
    assert wide[:2] == [1080, 1920]
    assert tall == [wide[i] for i in (1, 0, 3, 2, 5, 4)]
    height, width = wide[4:]
    scale = max(height / 1080, width / 1920)
    assert wide[2:4] == [
        (round(1080 * scale) - height) // 2,
        (round(1920 * scale) - width) // 2,
    ]


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_clip_skip_is_said_to_be_ignored(recipe, thin, family):
    recipe = on_base(recipe, thin(family))
    asked = replace(recipe, base=replace(recipe.base, clip_skip=12))
    texts = [finding.text for finding in session.make_plan(asked).findings]
    assert any(text.startswith("base.clip_skip 12 is ignored") for text in texts)
    texts = [finding.text for finding in session.make_plan(recipe).findings]
    assert not any("clip_skip" in text for text in texts)


def test_gradient_checkpointing_changes_nothing_on_sdxl(recipe, thin):
    plain = on_base(recipe, thin("sdxl"))
    base = session.open_base(plain.base, plain.memory, CPU)
    losses = session.run(session.make_plan(plain), base).history.losses
    saved = replace(
        plain,
        memory=replace(plain.memory, gradient_checkpointing=True),
        output=replace(plain.output, name="saved"),
    )
    again = session.run(session.make_plan(saved), base).history.losses
    assert again == pytest.approx(losses, rel=1e-4)
