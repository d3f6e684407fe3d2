"""Our nodes in a real ComfyUI; see comfyui_nodes.py for what it does."""

import pytest

pytestmark = [pytest.mark.host, pytest.mark.slow]

ROUNDING = 1 / 255
PHASES = [
    f"{kind} while {phase}"
    for phase in ("encoding", "saving", "drawing")
    for kind in ("cancel", "out of memory")
]


@pytest.fixture(scope="module")
def found(comfyui, tmp_path_factory):
    folder = tmp_path_factory.mktemp("comfyui")
    return comfyui.drive("comfyui_nodes.py", folder, str(folder / "base"))


def ended(found, name):
    return [what for what, _ in found[name]]


def test_every_graph_ends_as_it_should(found):
    interrupted = {"cancel", *(name for name in PHASES if name.startswith("cancel"))}
    broken = {"out of memory", "error", *(name for name in PHASES if name not in interrupted)}
    for name, messages in found.items():
        if not isinstance(messages, list) or not messages or not isinstance(messages[0], list):
            continue
        wanted = (
            "execution_interrupted"
            if name in interrupted
            else "execution_error"
            if name in broken
            else "execution_success"
        )
        assert ended(found, name) == [wanted], name


@pytest.mark.parametrize(
    "name",
    [
        *("cancel", "success", "pictures on the way", "incoming patches", "analyzed"),
        *("out of memory", "error", *PHASES),
    ],
)
def test_the_host_is_afterwards_as_it_was(found, name):
    assert found[f"{name}: weights as before"]
    assert found[f"{name}: picture as before"]
    assert found[f"{name}: memory"] < 1.02


def test_cancel_keeps_the_network_and_its_state_and_resume_goes_on(found):
    files = found["cancel: files"]
    assert any("-step" in name and name.endswith(".safetensors") for name in files)
    assert found["resume: first step"] > 1


def test_the_file_is_listed_at_once_and_loads_whole(found):
    assert "momo.safetensors" in found["resume: lists of LoraLoader"]
    assert found["LoraLoader: not loaded"] == []


def test_what_is_previewed_is_what_a_ksampler_draws(found):
    assert found["LoRA: difference to none"] > 4 * ROUNDING
    assert found["LoraLoader: difference"] <= ROUNDING
    assert found["grid: cells"] == 4
    assert found["grid: NONE as KSampler"]
    assert found["grid: ALL as KSampler"]
    assert found["grid: chosen as KSampler"]
    assert found["grid: chosen is not all"]


def test_pictures_on_the_way_are_those_of_the_ksampler(found):
    assert found["pictures on the way: files"][-2:] == ["step-00000001.png", "step-00000002.png"]
    assert found["pictures on the way: difference"] <= 3 * ROUNDING


def test_seeds_and_samples_do_not_train_again(found):
    assert not found["another seed: trained"]
    assert not found["samples: trained"]


def test_incoming_patches_are_trained_on_or_left_out(found):
    # without them it is the very training that was done before
    assert found["left out: file"] != found["part of the base: file"]


def test_out_of_memory_is_a_sentence_with_a_remedy(found):
    assert "gradient_checkpointing" in found["out of memory"][0][1]
    assert "a mistake" in found["error"][0][1]


def test_blocks_are_measured(found):
    assert "OUT03" in found["analyzed: table"]
