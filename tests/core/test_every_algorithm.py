"""Live, baked and merged are one: pictures of the embedded model, with every algorithm."""

import numpy as np
import pytest
import torch

from lora_loop.core import session
from lora_loop.core.adapters.applied import AppliedNetwork
from lora_loop.core.adapters.network import Network
from lora_loop.core.adapters.targets import find_layers
from lora_loop.core.config.recipe import BaseConfig, MemoryConfig
from lora_loop.core.files.adapter_file import write_adapters
from lora_loop.core.files.names import kohya_key
from lora_loop.core.models.networks import open_applied
from lora_loop.core.preview.sampling import DrawSettings, Prompt, draw

ALGORITHMS = (
    *("lora", "locon of Tucker", "loha", "lokr", "dora on outputs", "dora on inputs"),
    *("ia3", "full", "glora", "oft", "boft"),
)
ENDS = ("attn2.to_v", "ff.net.2", "conv2", "conv_shortcut", "proj_in", "q_proj", "norm2")
WEIGHTS = "ALL=1, IN04-IN08=0.5, OUT03=0, OUT07=-0.5; OUT09:attn2:0"
SETTINGS = DrawSettings(width=64, height=64, steps=2, guidance=3, seed=3, sampler="euler")


def open_base(checkpoint: str = "embedded"):
    config = BaseConfig(checkpoint=checkpoint)
    return session.open_base(config, MemoryConfig(precision="fp32"), torch.device("cpu"))


@pytest.fixture(scope="module")
def base():
    return open_base()


def picture(base) -> np.ndarray:
    (drawn,) = draw(base, [Prompt("a red circle on a blue background")], SETTINGS)
    return np.asarray(drawn, dtype=np.int16)


@pytest.fixture(scope="module")
def plain(base) -> np.ndarray:
    return picture(base)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_live_is_baked_is_merged(base, plain, random_updates, tmp_path, algorithm) -> None:
    layers = {p: layer for p, layer in find_layers(base.parts).items() if p.endswith(ENDS)}
    updates = random_updates(algorithm, layers, 0.1)
    source = tmp_path / "source.safetensors"
    own = {kohya_key(path): dict(update.tensors) for path, update in updates.items()}
    write_adapters(source, own, {}, "fp32")
    bake = session.Bake(weights=WEIGHTS, unet=0.8, text_encoder=0.7, precision="fp32")

    network = session.open_network(base, source)
    assert isinstance(network, AppliedNetwork)
    with network.attached(base.parts), network.using(bake.strength("sd1")):
        live = picture(base)
    assert np.abs(live - plain).max() > 16

    form = "lora" if algorithm in {"lora", "locon of Tucker", "loha", "lokr"} else "diff"
    chosen = session.Bake(
        weights=WEIGHTS,
        unet=0.8,
        text_encoder=0.7,
        form=form,
        checkpoint="embedded",
        precision="fp32",
    )
    baked = session.bake_file(source, chosen, tmp_path / "baked.safetensors")
    with session.open_network(base, baked.file.path).attached(base.parts):
        assert np.abs(picture(base) - live).max() <= 1

    folded = session.fold_files(
        "embedded",
        [session.Merge(path=source, bake=bake)],
        tmp_path / "folded.safetensors",
        precision="fp32",
    )
    assert np.abs(picture(open_base(str(folded.path))) - live).max() <= 1
    assert np.array_equal(picture(base), plain)


def test_plain_lora_is_computed_beside_the_weights_and_draws_the_same(
    base, random_updates, tmp_path
) -> None:
    layers = {p: m for p, m in find_layers(base.parts).items() if p.endswith(("to_v", "conv2"))}
    updates = random_updates("lora", layers, 0.1)
    source = tmp_path / "source.safetensors"
    own = {kohya_key(path): dict(update.tensors) for path, update in updates.items()}
    write_adapters(source, own, {}, "fp32")
    beside, added = session.open_network(base, source), open_applied(base, source)
    assert isinstance(beside, Network)
    with beside.attached(base.parts):
        first = picture(base)
    with added.attached(base.parts):
        assert np.abs(picture(base) - first).max() <= 1
