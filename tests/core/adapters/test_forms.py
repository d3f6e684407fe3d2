"""What each algorithm's tensors stand for, against numbers from LyCORIS 3.4's own modules."""

import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from lora_loop.core.adapters.forms import FORMS, Update, form_of, split_rank
from lora_loop.core.errors import ConfigError


def wave(shape: tuple[int, ...], pace: float) -> Tensor:
    count = math.prod(shape)
    return torch.sin(torch.arange(1, count + 1, dtype=torch.float64) * pace).float().reshape(shape)


LINEAR, CONV = wave((4, 6), 0.7), wave((4, 6, 3, 3), 0.7)
ONE = torch.tensor(1.0)
CORE = wave((2, 2, 3, 3), 0.2)


def lora(conv: bool, **more: Tensor) -> dict[str, Tensor]:
    down = wave((2, 6, 3, 3), 0.3) if conv else wave((2, 6), 0.3)
    up = wave((4, 2, 1, 1), 0.5) if conv else wave((4, 2), 0.5)
    return {"lora_down.weight": down, "lora_up.weight": up, "alpha": ONE, **more}


def loha(side: int) -> dict[str, Tensor]:
    return {
        "hada_w1_b": wave((2, side), 0.3),
        "hada_w1_a": wave((4, 2), 0.5),
        "hada_w2_b": wave((2, side), 0.9),
        "hada_w2_a": wave((4, 2), 1.1),
        "alpha": ONE,
    }


def glora(kernel: tuple[int, ...]) -> dict[str, Tensor]:
    ones = (1,) * len(kernel)
    return {
        "a1.weight": wave((6, 2, *ones), 0.2),
        "a2.weight": wave((2, 6, *ones), 0.3),
        "b1.weight": wave((4, 2, *ones), 0.5),
        "b2.weight": wave((2, 6, *kernel), 0.7),
        "alpha": ONE,
    }


def ia3(weight: Tensor, on_input: bool) -> dict[str, Tensor]:
    return {"weight": weight, "on_input": torch.tensor(int(on_input))}


@dataclass
class Case:
    """An update on a weight; its delta's sum, sum of sizes, and numbers 0, 7 and -1."""

    tensors: dict[str, Tensor]
    weight: Tensor
    numbers: tuple[float, ...]


CASES = {
    "loha": Case(loha(6), LINEAR, (-0.479624, 5.395656, 0.308894, -0.535067, 0.004486)),
    "loha conv": Case(loha(54), CONV, (-0.092955, 20.724229, -0.031531, 0.009108, 0.202909)),
    "loha tucker": Case(
        {
            **loha(6),
            "hada_w1_a": wave((2, 4), 0.5),
            "hada_w2_a": wave((2, 4), 1.1),
            "hada_t1": CORE,
            "hada_t2": wave((2, 2, 3, 3), 0.4),
        },
        CONV,
        (7.322944, 22.829028, 0.003926, 0.045164, 0.285836),
    ),
    "lokr": Case(
        {"lokr_w1": wave((2, 2), 0.3), "lokr_w2": wave((2, 3), 0.5), "alpha": 9 * ONE},
        LINEAR,
        (10.217846, 10.217846, 0.14168, 0.176861, 0.131529),
    ),
    "lokr of thin factors": Case(
        {
            "lokr_w1_a": wave((2, 2), 0.3),
            "lokr_w1_b": wave((2, 2), 0.5),
            "lokr_w2_a": wave((2, 2), 0.7),
            "lokr_w2_b": wave((2, 3), 0.9),
            "alpha": ONE,
        },
        LINEAR,
        (0.850604, 4.36843, 0.024161, 0.18087, 0.082904),
    ),
    "lokr conv": Case(
        {
            "lokr_w1": wave((2, 2), 0.3),
            "lokr_w2_a": wave((2, 2), 0.7),
            "lokr_w2_b": wave((2, 3, 3, 3), 0.9),
            "alpha": ONE,
        },
        CONV,
        (1.072539, 58.57211, 0.084351, 0.087777, -0.453004),
    ),
    "lokr tucker": Case(
        {
            "lokr_w1": wave((2, 2), 0.3),
            "lokr_w2_a": wave((2, 2), 0.7),
            "lokr_w2_b": wave((2, 3), 0.9),
            "lokr_t2": CORE,
            "alpha": ONE,
        },
        CONV,
        (-11.201756, 26.256291, -0.04899, -0.040052, 0.200876),
    ),
    "locon tucker": Case(
        {
            "lora_down.weight": wave((2, 6, 1, 1), 0.3),
            "lora_up.weight": wave((4, 2, 1, 1), 0.5),
            "lora_mid.weight": CORE,
            "alpha": ONE,
        },
        CONV,
        (9.964305, 30.053727, -0.103113, 0.146694, 0.216984),
    ),
    "oft": Case(
        {"oft_blocks": wave((2, 2, 2), 0.3)},
        LINEAR,
        (-1.380247, 5.061219, -0.468887, -0.353712, 0.028816),
    ),
    "oft with a bound": Case(
        {"oft_blocks": wave((2, 2, 2), 0.3), "alpha": torch.tensor(0.1)},
        CONV,
        (-0.013002, 43.746024, 0.240883, -0.171928, 0.05566),
    ),
    "boft": Case(
        {"oft_blocks": wave((2, 2, 2, 2), 0.3), "alpha": torch.tensor(0.0)},
        LINEAR,
        (-0.570519, 7.963686, 0.4392, 0.691915, -0.052993),
    ),
    "boft conv, rescaled": Case(
        {"oft_blocks": wave((2, 2, 2, 2), 0.3), "rescale": wave((4, 1, 1, 1), 0.8) + 1},
        CONV,
        (0.1993, 123.191692, 0.660968, -0.365045, -0.1441),
    ),
    "dora, outputs": Case(
        lora(False, dora_scale=wave((4, 1), 0.8) + 2),
        LINEAR,
        (5.095676, 10.555514, 0.578265, 0.575629, -0.388887),
    ),
    "dora conv, outputs": Case(
        lora(True, dora_scale=wave((4, 1, 1, 1), 0.8) + 2),
        CONV,
        (1.268316, 71.926058, -0.42719, 0.331897, -0.335443),
    ),
    "dora, inputs": Case(
        lora(False, dora_scale=wave((1, 6), 0.8) + 2),
        LINEAR,
        (9.619254, 10.808016, 1.628046, 0.54892, 0.358469),
    ),
    "dora conv, inputs": Case(
        lora(True, dora_scale=wave((1, 6, 1, 1), 0.8) + 2),
        CONV,
        (1.077798, 72.602849, -0.365301, 0.246527, -0.355314),
    ),
    "glora": Case(glora(()), LINEAR, (4.228571, 18.318682, 0.357103, 1.145633, -0.118854)),
    "glora conv": Case(glora((3, 3)), CONV, (0.783158, 358.007406, 2.250584, -1.951656, 0.310939)),
    "ia3": Case(
        ia3(wave((4,), 0.4), False),
        LINEAR,
        (0.490131, 11.596053, 0.25087, -0.452843, -0.887189),
    ),
    "ia3 on inputs": Case(
        ia3(wave((6,), 0.4), True),
        LINEAR,
        (1.141254, 11.768623, 0.25087, -0.452843, -0.599519),
    ),
    "ia3 conv": Case(
        ia3(wave((1, 4, 1, 1), 0.4), False),
        CONV,
        (0.245697, 104.37686, 0.25087, -0.245827, 0.392521),
    ),
    "ia3 conv on inputs": Case(
        ia3(wave((1, 6, 1, 1), 0.4), True),
        CONV,
        (0.237535, 105.891426, 0.25087, -0.245827, 0.265246),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_deltas_are_those_of_lycoris(case: Case) -> None:
    delta = Update(case.tensors).delta(case.weight).double()
    assert delta.shape == case.weight.shape
    flat = delta.flatten()
    found = (delta.sum(), delta.abs().sum(), flat[0], flat[7], flat[-1])
    assert [float(number) for number in found] == pytest.approx(case.numbers, abs=2e-5, rel=2e-6)


def test_lora_is_its_product() -> None:
    tensors = lora(False)
    expected = 0.5 * tensors["lora_up.weight"] @ tensors["lora_down.weight"]
    torch.testing.assert_close(Update(tensors).delta(LINEAR), expected)
    del tensors["alpha"]  # then every host takes scale 1
    torch.testing.assert_close(Update(tensors).delta(LINEAR), 2 * expected)
    pointwise = Update(tensors).delta(LINEAR[..., None, None])
    torch.testing.assert_close(pointwise, 2 * expected[..., None, None])


def test_full_norm_and_bias() -> None:
    update = Update({"diff": LINEAR, "diff_b": wave((4,), 0.2)})
    torch.testing.assert_close(update.delta(LINEAR), LINEAR)
    torch.testing.assert_close(update.bias_delta(), wave((4,), 0.2))
    norm = Update({"w_norm": wave((4,), 0.1), "b_norm": wave((4,), 0.2)})
    torch.testing.assert_close(norm.delta(torch.ones(4)), wave((4,), 0.1))
    assert Update({"diff_b": wave((4,), 0.2)}).delta(LINEAR) is None
    assert Update(lora(False)).bias_delta() is None


def test_old_files_of_glora_have_their_factors_names_swapped() -> None:
    new = glora(())
    old = {
        "a1.weight": new["a2.weight"],
        "a2.weight": new["a1.weight"],
        "b1.weight": new["b2.weight"],
        "b2.weight": new["b1.weight"],
        "alpha": ONE,
    }
    torch.testing.assert_close(Update(old).delta(LINEAR), Update(new).delta(LINEAR))


MULTIPLIED = [name for name in CASES if not name.startswith(("oft", "boft", "dora"))]


@pytest.mark.parametrize("name", MULTIPLIED)
def test_a_multiple_is_a_multiple_of_the_delta(name: str) -> None:
    case = CASES[name]
    whole = Update(case.tensors).delta(case.weight)
    part = Update(case.tensors).times(-0.75).delta(case.weight)
    assert whole is not None
    torch.testing.assert_close(part, -0.75 * whole, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["oft", "boft", "dora, inputs"])
def test_what_is_no_multiple_of_a_tensor_says_so(name: str) -> None:
    with pytest.raises(ConfigError, match="bake it"):
        Update(CASES[name].tensors).times(0.5)


def test_dylora_is_cut_from_the_front_on_the_scale_of_all() -> None:
    tensors = lora(False)
    cut = Update(tensors).cut(1)
    expected = 0.5 * tensors["lora_up.weight"][:, :1] @ tensors["lora_down.weight"][:1]
    torch.testing.assert_close(cut.delta(LINEAR), expected)
    assert Update(tensors).cut(0) == Update(tensors)
    assert Update(tensors).cut(2) == Update(tensors)
    assert split_rank(cut) == 1
    tucker = Update(CASES["locon tucker"].tensors).cut(1)
    assert tucker.tensors["lora_mid.weight"].shape == (1, 1, 3, 3)


def test_forms_are_told_from_their_tensors() -> None:
    assert {form_of(case.tensors).name for case in CASES.values()} == {
        "lora", "loha", "lokr", "oft", "glora", "ia3"
    }  # fmt: skip
    assert len({form.name for form in FORMS}) == len(FORMS)
    with pytest.raises(ConfigError, match="no whole adapter"):
        form_of({"lora_up.weight": ONE})
    assert Update(CASES["dora, inputs"].tensors).needs_weight
    assert not Update(lora(True)).needs_weight


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_layer_is_refused(name: str) -> None:
    case = CASES[name]
    other = torch.zeros(5, 7, *case.weight.shape[2:])
    with pytest.raises(ConfigError, match="made for another base model"):
        Update(case.tensors).delta(other)
