"""Which layers are adapted, and under what names."""

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from lora_loop.core.adapters.network import Network
from lora_loop.core.adapters.targets import find_targets, is_between_transformers
from lora_loop.core.errors import ConfigError
from lora_loop.core.files.names import kohya_key


def test_sd15_has_264_targets_and_one_and_an_eighth_mebibyte_per_rank(
    make_text_encoder: Callable[[int, int], nn.Module],
) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8)
        text_encoder = make_text_encoder(12, 768)
    targets = find_targets({"unet": unet, "text_encoder": text_encoder})
    parts = Counter(path.partition(".")[0] for path in targets)
    assert parts == {"unet": 192 + 86, "text_encoder": 72}
    assert len({kohya_key(path) for path in targets}) == 350
    added = {path: t for path, t in targets.items() if is_between_transformers(path)}
    wide = [t for t in added.values() if isinstance(t, nn.Conv2d) and t.kernel_size == (3, 3)]
    assert (len(added), len(wide)) == (86, 50)
    targets = {path: t for path, t in targets.items() if path not in added}
    numbers = sum(t.weight.shape[0] + t.weight.shape[1] for t in targets.values())
    assert 2 * numbers == 1.125 * 2**20  # bytes per rank in fp16
    convolutions = [path for path, t in targets.items() if isinstance(t, nn.Conv2d)]
    assert len(convolutions) == 32
    assert all(path.endswith(("proj_in", "proj_out")) for path in convolutions)


def test_text_encoder_paths_do_not_depend_on_the_librarys_module_tree() -> None:
    def tree(wrapped: bool) -> nn.Module:
        root = nn.Module()
        holder = nn.Module() if wrapped else root
        if wrapped:
            root.text_model = holder
        layer = nn.Module()
        layer.self_attn, layer.mlp = nn.Module(), nn.Module()
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            setattr(layer.self_attn, name, nn.Linear(2, 2))
        layer.mlp.fc1, layer.mlp.fc2 = nn.Linear(2, 4), nn.Linear(4, 2)
        holder.encoder = nn.Module()
        holder.encoder.layers = nn.ModuleList([layer])
        return root

    old, new = (
        find_targets({"text_encoder": tree(True)}),
        find_targets({"text_encoder": tree(False)}),
    )
    assert list(old) == list(new)
    assert set(old) == {
        f"text_encoder.text_model.encoder.layers.0.{name}"
        for name in (
            *("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
            *("mlp.fc1", "mlp.fc2"),
        )
    }


def test_nothing_else_of_a_unet_is_a_target(unet: nn.Module) -> None:
    targets = find_targets({"unet": unet})
    assert len(targets) == 192 + 85  # two of its levels are equally wide: a shortcut fewer
    ends = ("unet.conv_in", "unet.conv_out", "unet.conv_norm_out", "unet.time_embedding")
    assert not any(path.startswith(ends) or "norm" in path for path in targets)
    assert find_targets({}) == {}


def test_a_layer_of_another_kind_is_named(text_encoder: nn.Module) -> None:
    layer = text_encoder.get_submodule(
        next(name for name, _ in text_encoder.named_modules() if name.endswith("layers.0.mlp"))
    )
    linear, layer.fc1 = layer.fc1, nn.Identity()
    try:
        with pytest.raises(ConfigError, match=r"layers\.0\.mlp\.fc1: an adapter needs a linear"):
            find_targets({"text_encoder": text_encoder})
    finally:
        layer.fc1 = linear


def test_an_attached_network_is_noticed(unet: nn.Module, network: Network) -> None:
    with network.attached({"unet": unet}), pytest.raises(ConfigError, match="carries an adapter"):
        find_targets({"unet": unet})
