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


@pytest.fixture
def desk(tags, monkeypatch):
    """The tab's desk, with one preset of the user's own."""
    presets = SimpleNamespace(presets=lambda: {"MINE": "IN01=0.25", "脸：1": "BASE=1"})
    found = SimpleNamespace(presets=presets, host=SimpleNamespace(language=lambda: "en"))
    monkeypatch.setattr(tags, "the_desk", lambda: found)
    return found


@pytest.fixture
def network():
    return make_network()


@pytest.fixture
def extension(tags, desk, network, monkeypatch):
    """The host's own extension, which has read the prompt's LoRAs."""
    found = SimpleNamespace(loaded_networks=[network])
    monkeypatch.setattr(tags, "lora_extension", lambda: found)
    return found


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


def params_of(tag):
    """A tag as the host takes it apart."""
    found = SimpleNamespace(items=tag.strip("<>").split(":")[1:], positional=[], named={})
    for item in found.items:
        parts = item.split("=", 2)
        if len(parts) == 2:
            found.named[parts[0]] = parts[1]
        else:
            found.positional.append(item)
    return found


def make_job(tag):
    comments = []
    return SimpleNamespace(
        sd_model=SimpleNamespace(is_sdxl=False),
        extra_network_data={"lora": [params_of(tag)]},
        seeds=[1],
        prompts=[f"a cat {tag}"],
        comment=comments.append,
        comments=comments,
    )


def test_what_cannot_be_read_is_told_and_left_out(tags, extension, network):
    job = make_job("<lora:mine:1:lbw=NOFCE>")
    tags.TagWeights().process_batch(job)
    assert scales(network) == dict.fromkeys(KEYS, 0.5)
    assert len(job.comments) == 1
    assert "NOFACE" in job.comments[0]


def test_the_other_extension_has_the_word(tags, modules, extension, network):
    script, job = tags.TagWeights(), make_job("<lora:mine:1:NONE>")
    modules.scripts.scripts_data.append(SimpleNamespace(path="x/scripts/lora_block_weight.py"))
    script.before_process_batch(job)
    script.process_batch(job)
    assert job.prompts == ["a cat <lora:mine:1:NONE>"]
    assert scales(network) == dict.fromkeys(KEYS, 0.5)
    modules.scripts.scripts_data.clear()
    script.process_batch(job)
    assert scales(network) == dict.fromkeys(KEYS, 0.0)


@pytest.mark.parametrize(
    ("parts", "wanted"),
    [
        ("1:lbw=MINE", (0.0, 0.125, 0.0)),
        ("0.8:lbw=BASE=1, OUT11=X:x=0.5", (0.5, 0.0, 0.25)),
        ("1:lbw=脸：1", (0.5, 0.0, 0.0)),
        ("1:脸：1", (0.5, 0.0, 0.0)),
        ("1:lbwe=IN01:proj_in:0.25,OUT11::0", (0.5, 0.125, 0.0)),
        ("1:lbw=MINE:lbwe=OUT11:proj:1", (0.0, 0.125, 0.5)),
        ("1:OUTALL", (0.5, 0.0, 0.5)),
        ("1:1:0:INS", (0.5, 0.5, 0.0)),
        ("te=1:unet=0.5:lbw=OUTALL", (0.5, 0.0, 0.5)),
        ("1", (0.5, 0.5, 0.5)),
    ],
)
def test_every_way_to_write_a_tag_reaches_the_layers_through_the_host(
    tags, extension, network, parts, wanted
):
    script, job = tags.TagWeights(), make_job(f"<lora:mine:{parts}>")
    script.before_process_batch(job)
    params = params_of(job.prompts[0].partition("<")[2])  # the host reads the prompts next
    numbers = [float(number) for number in params.positional[1:]]
    assert len(numbers) <= 2
    job.extra_network_data = {"lora": [params]}
    script.process_batch(job)
    assert tuple(scales(network).values()) == wanted
    assert job.comments == []


def test_the_second_pass_of_a_larger_picture_is_read_alike(tags, extension):
    job = make_job("<lora:mine:1:NONE>")
    job.all_hr_prompts = ["larger <lora:mine:1:NONE>"]
    given = job.prompts  # other scripts were given this list too, and change it
    tags.TagWeights().before_process_batch(job)
    assert job.prompts is given
    assert job.all_hr_prompts == ["larger <lora:mine:1:lbw=NONE>"]
    assert job.prompts == ["a cat <lora:mine:1:lbw=NONE>"]


@pytest.mark.parametrize(
    "tag", ["<lora:mine:1>", "<lora:mine:0.5:1>", "<lora:mine:1@0,0@1>", "<lora:mine:1:NOFCE>"]
)
def test_tags_that_are_not_ours_are_left_alone(tags, extension, tag):
    job = make_job(tag)
    tags.TagWeights().before_process_batch(job)
    assert job.prompts == [f"a cat {tag}"]


@pytest.mark.parametrize(("language", "words"), [("en", "acted in every step"), ("zh", "不支持")])
def test_steps_that_cannot_be_done_are_told(tags, extension, network, desk, language, words):
    desk.host.language = lambda: language
    job = make_job("<lora:mine:1:lbw=NONE:step=3-8>")
    tags.TagWeights().process_batch(job)
    assert scales(network) == dict.fromkeys(KEYS, 0.0)
    assert len(job.comments) == 1
    assert words in job.comments[0]


def test_elements_count_in_forge_too(tags):
    layers = {
        "diffusion_model.input_blocks.1.1.proj_in.weight": [[0.5, "p"]],
        "clip_g.transformer.text_model.encoder.layers.0.mlp.fc1.weight": [[0.5, "q"]],
    }
    weights = BlockWeights.parse("ALL; IN01:proj_in:0.25, BASE:mlp_c_fc:0")
    (scaled,) = tags.scaled_patches({("a", 1.0): layers}, {"a": weights}).values()
    assert [patches[0][0] for patches in scaled.values()] == [0.125, 0.0]
