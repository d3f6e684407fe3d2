"""Block weights in prompts: what becomes of the host's own networks and patches."""

from types import SimpleNamespace

import pytest

from lora_loop.core.session import BlockWeights

KEYS = {
    "te": "lora_te_text_model_encoder_layers_0_mlp_fc1",
    "in": "lora_unet_down_blocks_0_attentions_0_proj_in",  # IN01
    "out": "lora_unet_up_blocks_3_attentions_2_proj_out",  # OUT11
}


class Layer:
    """The extension's module of one layer, alpha 2 and rank 4."""

    scale = None

    def __init__(self, key: str, *, merged: bool) -> None:
        self.network_key = f"{key}.lora_down.weight"
        self.sd_module = SimpleNamespace(
            network_weights_backup=object() if merged else None,
            network_current_names=("mine",) if merged else (),
        )

    def calc_scale(self):
        return 0.5 if self.scale is None else self.scale


def make_network(*, merged=False):
    layers = {name: Layer(key, merged=merged) for name, key in KEYS.items()}
    return SimpleNamespace(name="mine", mentioned_name="mine", modules=layers)


def scales(network):
    return {name: layer.calc_scale() for name, layer in network.modules.items()}


@pytest.fixture
def tags(ours):
    return ours("tag_weights")


def test_each_layer_is_scaled_by_its_block(tags):
    network, weights = make_network(), BlockWeights.parse("BASE=1, IN01=0.25, OUT11=0")
    tags.scale_networks([network], {"mine": weights})
    assert scales(network) == {"te": 0.5, "in": 0.125, "out": 0.0}
    tags.scale_networks([network], {"mine": weights})
    assert scales(network) == {"te": 0.5, "in": 0.125, "out": 0.0}


def test_without_a_tag_the_next_picture_is_plain(tags):
    network = make_network()
    tags.scale_networks([network], {"mine": BlockWeights.parse("NONE")})
    assert set(scales(network).values()) == {0.0}
    tags.scale_networks([network], {})
    assert scales(network) == dict.fromkeys(KEYS, 0.5)
    assert {layer.scale for layer in network.modules.values()} == {None}


@pytest.mark.parametrize("merged", [True, False])
def test_only_what_was_merged_is_merged_anew(tags, merged):
    network = make_network(merged=merged)
    tags.scale_networks([network], {})
    names = [layer.sd_module.network_current_names for layer in network.modules.values()]
    assert names == [("mine",) if merged else ()] * 3
    tags.scale_networks([network], {"mine": BlockWeights.parse("ALL")})
    names = [layer.sd_module.network_current_names for layer in network.modules.values()]
    assert names == [("lora-loop",) if merged else ()] * 3


def test_forges_patches_are_scaled_and_told_apart(tags):
    patches = {
        ("a.safetensors", 0.5, 1.0, False): {
            "diffusion_model.input_blocks.1.1.proj_in.weight": [[0.5, "p", 1.0, None, None]],
            "clip_l.transformer.text_model.x.weight": [[0.5, "q", 1.0, None, None]],
        },
        ("b.safetensors", 1.0, 1.0, False): {"diffusion_model.x": [[1.0, "r", 1.0, None, None]]},
    }
    weights = BlockWeights.parse("BASE=1, IN01=0.25, OUT11=0")
    scaled = tags.scaled_patches(patches, {"a.safetensors": weights})
    first, second = scaled
    assert second == ("b.safetensors", 1.0, 1.0, False)
    assert scaled[second] is patches[second]
    assert first[0].startswith("a.safetensors lbw=1,")
    assert first[1:] == (0.5, 1.0, False)
    assert scaled[first] == {
        "diffusion_model.input_blocks.1.1.proj_in.weight": [[0.125, "p", 1.0, None, None]],
        "clip_l.transformer.text_model.x.weight": [[0.5, "q", 1.0, None, None]],
    }


def make_job(text):
    params = SimpleNamespace(named={"lbw": text}, positional=["mine", "1"])
    comments = []
    return SimpleNamespace(
        sd_model=SimpleNamespace(is_sdxl=False),
        extra_network_data={"lora": [params]},
        seeds=[1],
        comment=comments.append,
        comments=comments,
    )


def test_what_cannot_be_read_is_told_and_left_out(tags, monkeypatch):
    network = make_network()
    extension = SimpleNamespace(loaded_networks=[network])
    monkeypatch.setattr(tags, "lora_extension", lambda: extension)
    job = make_job("NOFCE")
    tags.TagWeights().process_batch(job)
    assert scales(network) == dict.fromkeys(KEYS, 0.5)
    assert len(job.comments) == 1
    assert "NOFACE" in job.comments[0]


def test_the_other_extension_has_the_word(tags, modules, monkeypatch):
    network = make_network()
    extension = SimpleNamespace(loaded_networks=[network])
    monkeypatch.setattr(tags, "lora_extension", lambda: extension)
    modules.scripts.scripts_data.append(SimpleNamespace(path="x/scripts/lora_block_weight.py"))
    tags.TagWeights().process_batch(make_job("NONE"))
    assert scales(network) == dict.fromkeys(KEYS, 0.5)
    modules.scripts.scripts_data.clear()
    tags.TagWeights().process_batch(make_job("NONE"))
    assert scales(network) == dict.fromkeys(KEYS, 0.0)
