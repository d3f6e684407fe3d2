"""LoCon: trainings that adapt the convolutions too, from the recipe to file and preview."""

import json
from dataclasses import replace

import pytest
import torch

from lora_loop.core import session
from lora_loop.core.config.network import NetworkConfig
from lora_loop.core.errors import ConfigError
from lora_loop.core.files.network_file import read_network
from lora_loop.core.preview.grid import GridRequest
from lora_loop.core.preview.sampling import DrawSettings, Prompt

CPU = torch.device("cpu")


@pytest.fixture
def locon(recipe):
    network = replace(recipe.network, conv_rank=3, conv_alpha=1.5)
    return replace(recipe, network=network, training=replace(recipe.training, max_steps=3))


def test_a_locon_is_trained_written_and_drawn(locon):
    base = session.open_base(locon.base, locon.memory, CPU)
    trained = session.run(session.make_plan(locon), base)
    assert trained.path is not None
    file = read_network(trained.path)
    wide = {key: m for key, m in file.modules.items() if m[0].shape[2:] == (3, 3)}
    others = [m for key, m in file.modules.items() if key not in wide]
    assert len(wide) == 50
    assert {(len(down), alpha) for down, _, alpha in wide.values()} == {(3, 1.5)}
    assert {(len(down), alpha) for down, _, alpha in others} == {(2, 2.0)}
    assert all(bool(up.any()) for _, up, _ in wide.values())  # every one of them was trained
    assert "lora_unet_down_blocks_0_downsamplers_0_conv" in wide
    assert "lora_unet_up_blocks_0_upsamplers_0_conv" in wide
    assert "lora_unet_up_blocks_3_resnets_2_conv_shortcut" in file.modules
    args = json.loads(file.metadata["ss_network_args"])
    assert args == {"conv_dim": "3", "conv_alpha": "1.5"}
    assert file.metadata["ss_network_module"] == "networks.lora"

    opened = session.open_network(base, trained.path)
    request = GridRequest(
        prompts=(Prompt("momo, picture 1"),),
        # OUT02 holds residual blocks and an upsampler, and no transformer
        presets=("ALL", "NONE", "OUT02=1"),
        settings=DrawSettings(width=64, height=64, steps=2, guidance=3.0),
    )
    drawn = session.preview(base, opened, request).cells[0]
    live = session.preview(base, trained.network, request).cells[0]
    assert [cell.tobytes() for cell in drawn] == [cell.tobytes() for cell in live]
    assert len({cell.tobytes() for cell in drawn}) == 3

    baked = session.bake_file(trained.path, session.Bake(weights="OUT02=1"))
    keys = {key for key in file.modules if "up_blocks_0_" in key and "attentions" not in key}
    assert set(read_network(baked.file.path).modules) <= keys


def test_a_locon_without_a_unet_is_refused():
    with pytest.raises(ConfigError, match=r"conv_rank is 4 but network\.unet is false"):
        NetworkConfig(conv_rank=4, unet=False)
