"""The nodes that make files of other files."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_loop.comfy_nodes.keep_nodes import (
    BlockWeightTag,
    ExtractLoRA,
    FoldLoRA,
    MergeLoRAs,
    ResizeLoRA,
)
from lora_loop.comfy_nodes.lora_files import read_lora
from lora_loop.core.errors import ConfigError
from lora_loop.tests.hosts.network_files import write_random

from .conftest import defaults

IN01 = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
STORED = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


@pytest.fixture
def checkpoint(host, thin_tensors):
    path = host.folder("models") / "checkpoints" / "thin" / "base.safetensors"
    path.parent.mkdir(parents=True)
    save_file(dict(thin_tensors), path)
    return path


@pytest.fixture
def loras(host, checkpoint):
    folder = host.lora_folder()
    return [
        read_lora(write_random(checkpoint, folder / f"{name}.safetensors", "lora", seed))
        for seed, name in enumerate(("one", "two"))
    ]


def delta(lora, layer=IN01):
    down, up = (lora.tensors[f"{layer}.lora_{side}.weight"] for side in ("down", "up"))
    return up @ down * (lora.tensors[f"{layer}.alpha"] / len(down))


def run(node, method, **changes):
    return getattr(node, method)(**{**defaults(type(node)), **changes})


def test_a_merge_is_the_sum_at_its_strengths(host, loras):
    one, two = loras
    given = {"lora_1": one, "lora_2": two, "strength_2": 0.5, "block_weights_1": "IN01=0.5"}
    lora, path = run(MergeLoRAs(), "merge", precision="fp32", **given)
    assert lora.path == host.lora_folder() / "my_lora_merged.safetensors"
    assert path == str(lora.path)
    assert torch.allclose(delta(lora), 0.5 * delta(one) + 0.5 * delta(two), atol=1e-6)
    again, _ = run(MergeLoRAs(), "merge", **given)
    assert again.path.name == "my_lora_merged-2.safetensors"


def test_a_resized_file_says_what_it_lost(host, loras):
    lora, _ = run(ResizeLoRA(), "resize", lora=loras[0], rank=1, keep_percent=100.0)
    assert len(lora.tensors[f"{IN01}.lora_down.weight"]) == 1
    assert "kept in part" in host.shown.texts[0]


def test_what_was_folded_in_is_extracted_again(host, loras, checkpoint):
    (path,) = run(FoldLoRA(), "fold", lora=loras[0], checkpoint="thin/base.safetensors")["result"]
    folded = load_file(path)
    assert torch.allclose(
        folded[STORED] - load_file(checkpoint)[STORED], delta(loras[0]), atol=1e-5
    )
    changes = {"tuned": "thin/my_checkpoint.safetensors", "base": "thin/base.safetensors"}
    lora, _ = run(ExtractLoRA(), "extract", rank=4, precision="fp32", **changes)
    assert torch.allclose(delta(lora), delta(loras[0]), atol=1e-5)
    with pytest.raises(ConfigError, match="no checkpoint"):
        run(FoldLoRA(), "fold", lora=loras[0], checkpoint="../base.safetensors")
    with pytest.raises(ConfigError, match="name"):
        run(FoldLoRA(), "fold", lora=loras[0], checkpoint="thin/base.safetensors", name="../x")


def test_a_tag_is_written_in_each_dialect(host, loras):
    tags = {
        dialect: run(BlockWeightTag(), "write", lora=loras[0], dialect=dialect)["result"][0]
        for dialect in BlockWeightTag.INPUT_TYPES()["required"]["dialect"][0]
    }
    assert len(set(tags.values())) == len(tags) > 1
    assert tags["lbw"].startswith("<lora:one:1:")
    ranges = run(BlockWeightTag(), "write", lora=loras[0], block_weights="IN01=0.5")["result"][0]
    assert "0.5" in ranges
    assert "IN01" not in ranges
