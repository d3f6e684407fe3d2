"""The nodes that study blocks in pictures, on a thin model with a LoRA of random numbers."""

import pytest
import torch
from safetensors.torch import save_file

from lora_loop.comfy_nodes.lora_files import read_lora
from lora_loop.comfy_nodes.study_nodes import AnalyzeBlocksInPictures, SuggestBlockWeights
from lora_loop.core.errors import ConfigError
from lora_loop.tests.hosts.network_files import write_random

from .conftest import defaults

SMALL = {"steps": 1, "width": 64, "height": 64, "prompts": "momo", "cfg": 1.0}


@pytest.fixture
def lora(host, thin_tensors, tmp_path):
    checkpoint = tmp_path / "thin.safetensors"
    save_file(dict(thin_tensors), checkpoint)
    return read_lora(write_random(checkpoint, host.lora_folder() / "net.safetensors", "lora"))


@pytest.fixture
def mask():
    part = torch.zeros(1, 64, 64)
    part[:, 16:48, 16:48] = 1.0
    return part


def answer(node, method, lora, **changes):
    return getattr(node, method)(
        "model", "clip", "vae", lora, **{**defaults(type(node)), **SMALL, **changes}
    )


def test_each_block_is_drawn_charted_and_listed(host, lora, mask):
    found = answer(AnalyzeBlocksInPictures(), "analyze", lora)
    chart, grid, table = found["result"]
    assert chart.shape[0] == grid.shape[0] == 1
    assert {"IN01", "M00", "OUT11"} <= set(table.split())
    assert "inside" not in table
    assert len(found["ui"]["images"]) == 2
    table = answer(AnalyzeBlocksInPictures(), "analyze", lora, mask=mask, language="zh")["result"][
        2
    ]
    assert "部位内" in table
    assert host.borrowed == 2


def test_weights_are_suggested_and_proved(host, lora, mask):
    changes = {"mask": mask, "seeds": 1, "keep_outside": 50.0, "keep_inside": 60.0}
    weights, grid, report = answer(SuggestBlockWeights(), "suggest", lora, **changes)["result"]
    assert len(weights.split(",")) == 26
    assert grid.shape[0] == 1
    assert "at least 50 %" in report
    assert "at most 60 %" in report


def test_a_mask_that_says_nothing_is_refused(host, lora):
    with pytest.raises(ConfigError, match="all black"):
        answer(SuggestBlockWeights(), "suggest", lora, mask=torch.zeros(1, 64, 64), seeds=1)


@pytest.mark.parametrize(
    ("node", "method"),
    [(AnalyzeBlocksInPictures, "analyze"), (SuggestBlockWeights, "suggest")],
)
def test_cancel_is_handed_on(host, lora, mask, node, method):
    host.cancel_after = 3
    with pytest.raises(host.cancelled):
        answer(node(), method, lora, mask=mask)
