from dataclasses import replace

import pytest

from lora_loop.core import session
from lora_loop.core.errors import FileError
from lora_loop.core.files.network_file import ALPHA, DOWN, DTYPES, UP
from lora_loop.core.planner import adapter_bytes, check_folder


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"text_encoder": False},
        {"unet": False},
        {"conv_rank": 2, "conv_alpha": 1.0},
    ],
)
def test_the_file_has_the_foretold_bytes(recipe, precision, parts):
    from safetensors import safe_open

    recipe = replace(
        recipe,
        network=replace(recipe.network, rank=3, **parts),
        training=replace(recipe.training, max_steps=1),
        output=replace(recipe.output, precision=precision),
    )
    plan = session.make_plan(recipe)
    base = session.open_base(recipe.base, recipe.memory, session.pick_device("cpu"))
    trained = session.run(plan, base)
    with safe_open(str(trained.path), framework="pt") as file:
        tensors = [file.get_tensor(key) for key in file.keys()]  # noqa: SIM118
    held = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert held == adapter_bytes(plan.outline, recipe)
    assert {tensor.dtype for tensor in tensors} == {DTYPES[precision]}
    assert trained.path.stat().st_size <= plan.file_bytes


def test_the_plan_counts_true_steps(recipe):
    by_epochs = replace(recipe, training=replace(recipe.training, max_steps=0, epochs=3))
    plan = session.make_plan(by_epochs)
    # two squares seen twice fill 2 batches; each of the two other shapes, seen twice, one
    assert plan.steps == 3 * 4
    assert plan.event().images == 4
    assert plan.event().buckets == len(plan.pictures.buckets.buckets) == 3


def test_a_probe_leaves_nothing(tmp_path):
    check_folder(tmp_path / "new" / "folder", 10)
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    with pytest.raises(FileError, match="MiB free"):
        check_folder(tmp_path, 1 << 60)


def test_suffixes_are_kohyas():
    assert (DOWN, UP, ALPHA) == (".lora_down.weight", ".lora_up.weight", ".alpha")
