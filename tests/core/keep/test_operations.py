"""What is made of network files, against the deltas that it should stand for."""

import math

import pytest
import torch
from safetensors.torch import load_file

from lora_loop.core.adapters.block_weights import BlockWeights
from lora_loop.core.adapters.decompose import RankRule, best_factors, exact_factors, resized
from lora_loop.core.adapters.forms import Update
from lora_loop.core.adapters.tags import Tag, read_tag
from lora_loop.core.adapters.targets import find_targets
from lora_loop.core.config import DatasetConfig, Recipe
from lora_loop.core.errors import ConfigError, FileError
from lora_loop.core.files.adapter_file import read_adapters, write_adapters
from lora_loop.core.files.names import kohya_key, paths_by_key
from lora_loop.core.keep.operations import (
    Bake,
    Merge,
    bake_file,
    extract_file,
    fold_files,
    merge_files,
    recipe_with_blocks,
    resize_file,
    tag_for,
)
from lora_loop.core.models.stored_weights import StoredWeights

FP32 = {"precision": "fp32"}
PRODUCTS = ("lora", "locon of Tucker", "loha", "lokr")
OTHERS = ("dora on outputs", "dora on inputs", "ia3", "full", "glora", "oft", "boft")
ENDS = ("attn2.to_k", "conv1", "proj_in", "layers.0.self_attn.q_proj", "resnets.0.norm1")


@pytest.fixture(scope="module")
def stored(thin_checkpoint) -> StoredWeights:
    return StoredWeights(thin_checkpoint)


@pytest.fixture
def make_file(stored, random_updates, tmp_path):
    """Write a network of an algorithm for some layers of the thin checkpoint."""

    def make(algorithm: str, seed: int = 0, name: str = "net") -> tuple:
        layers = {p: m for p, m in stored.layers.items() if p.endswith(ENDS)}
        real = {path: _Layer(stored.tensor(path)) for path in layers}
        updates = random_updates(algorithm, real, 0.3, seed)
        own = {kohya_key(path): dict(update.tensors) for path, update in updates.items()}
        path = tmp_path / f"{name}.safetensors"
        write_adapters(path, own, {"ss_output_name": name, "ss_v2": "False"}, "fp32")
        return path, updates

    return make


class _Layer(torch.nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = torch.nn.Parameter(weight)


def deltas(path, stored) -> dict[str, torch.Tensor]:
    """What a file adds to each weight, by path."""
    by_key = paths_by_key(stored.layers)
    found = {}
    for key, tensors in read_adapters(path).layers.items():
        own = by_key[key]
        delta = Update(tensors).delta(stored.tensor(own).float())
        if delta is not None:
            found[own] = delta
    return found


def wanted(updates, stored) -> dict[str, torch.Tensor]:
    return {path: u.delta(stored.tensor(path).float()) for path, u in updates.items()}


def close(found, expected, part: float = 1e-5) -> None:
    """Whether deltas agree, by norm, up to a part of theirs."""
    assert set(found) == set(expected)
    for path, delta in expected.items():
        missed = torch.linalg.vector_norm(found[path] - delta)
        assert float(missed) <= part * float(torch.linalg.vector_norm(delta)) + 1e-6, path


@pytest.mark.parametrize("algorithm", PRODUCTS)
def test_products_are_baked_exactly_without_the_base_model(
    make_file, stored, tmp_path, algorithm
) -> None:
    path, updates = make_file(algorithm)
    bake = Bake(weights="ALL=1, OUT03=0, M00=-0.5", unet=0.8, text_encoder=0.5, **FP32)
    baked = bake_file(path, bake, tmp_path / "baked.safetensors")
    assert baked.worst_error == 0
    layers = read_adapters(baked.file.path).layers
    plain = {"lora_up.weight", "lora_down.weight", "alpha", "w_norm", "b_norm"}
    assert {suffix for own in layers.values() for suffix in own} <= plain
    strength = bake.strength("sd1")
    expected = {p: d * strength.of(p) for p, d in wanted(updates, stored).items() if strength.of(p)}
    assert len(expected) < len(updates)
    close(deltas(baked.file.path, stored), expected)
    metadata = read_adapters(baked.file.path).metadata
    assert metadata["ss_output_name"] == "baked"
    assert metadata["lora_loop.baked_strengths"] == "unet 0.8, text encoder 0.5"


@pytest.mark.parametrize("algorithm", OTHERS)
def test_the_others_are_baked_by_singular_values_and_the_error_is_told(
    make_file, stored, thin_checkpoint, tmp_path, algorithm
) -> None:
    path, updates = make_file(algorithm)
    bake = Bake(weights="ALL", checkpoint=str(thin_checkpoint), **FP32)
    baked = bake_file(path, bake, tmp_path / "baked.safetensors")
    expected = wanted(updates, stored)
    close(deltas(baked.file.path, stored), expected, part=0.05)
    missed = [
        float(torch.linalg.vector_norm(found - expected[p]) / torch.linalg.vector_norm(expected[p]))
        for p, found in deltas(baked.file.path, stored).items()
    ]
    assert max(missed) == pytest.approx(baked.worst_error, abs=1e-4)
    whole = Bake(weights="ALL", form="diff", checkpoint=str(thin_checkpoint), **FP32)
    exact = bake_file(path, whole, tmp_path / "diff.safetensors")
    close(deltas(exact.file.path, stored), expected)
    assert exact.worst_error == 0


def test_the_base_model_is_asked_for_where_it_is_needed(make_file, tmp_path) -> None:
    for algorithm, name in (("dora on outputs", "DoRA"), ("ia3", "IA3"), ("oft", "OFT")):
        path, _ = make_file(algorithm)
        with pytest.raises(ConfigError, match=f"{name} changes a layer by what its weight is"):
            bake_file(path, Bake(weights="ALL"), tmp_path / "baked.safetensors")
        path.unlink()
    assert not (tmp_path / "baked.safetensors").exists()


@pytest.mark.parametrize("algorithm", [*PRODUCTS, "ia3", "full", "glora"])
def test_a_form_of_its_own_is_kept(make_file, stored, tmp_path, algorithm) -> None:
    path, updates = make_file(algorithm)
    bake = Bake(weights="ALL=0.5, OUT03=0", form="same", **FP32)
    baked = bake_file(path, bake, tmp_path / "baked.safetensors")
    before, after = read_adapters(path).layers, read_adapters(baked.file.path).layers
    assert all(set(own) == set(before[key]) for key, own in after.items())
    strength = bake.strength("sd1")
    expected = {p: d * strength.of(p) for p, d in wanted(updates, stored).items() if strength.of(p)}
    close(deltas(baked.file.path, stored), expected)


def test_a_vector_of_fewer_blocks_says_what_it_turns_off(make_file, tmp_path) -> None:
    path, _ = make_file("loha")
    baked = bake_file(path, Bake(weights="NOFACE", rank=2), tmp_path / "baked.safetensors")
    said = " ".join(finding.text for finding in baked.findings)
    assert "IN00" not in said
    assert "IN10" in said
    assert "kept in part" in said
    assert 0 < baked.worst_error < 1
    ranks = [
        len(own["lora_down.weight"])
        for own in read_adapters(baked.file.path).layers.values()
        if "lora_down.weight" in own
    ]
    assert max(ranks) == 2
    with pytest.raises(FileError, match="exists"):
        bake_file(path, Bake(weights="NOFACE"), tmp_path / "baked.safetensors")
    with pytest.raises(ConfigError, match="nothing is left to bake"):
        bake_file(path, Bake(weights="NONE"), tmp_path / "none.safetensors")


def test_a_dylora_is_cut_before_it_is_baked(make_file, stored, tmp_path) -> None:
    path, updates = make_file("lora")
    bake = Bake(weights="ALL", dylora_rank=1, **FP32)
    baked = bake_file(path, bake, tmp_path / "baked.safetensors")
    cut = {name: update.cut(1) for name, update in updates.items()}
    close(deltas(baked.file.path, stored), wanted(cut, stored))
    assert read_adapters(baked.file.path).metadata["ss_network_dim"] == "1"


def test_a_dylora_is_cut_before_it_is_folded_in(make_file, stored, thin_checkpoint, tmp_path):
    path, updates = make_file("lora")
    merge = Merge(path=path, bake=Bake(weights="ALL", dylora_rank=1))
    made = fold_files(str(thin_checkpoint), [merge], tmp_path / "folded.safetensors")
    folded = StoredWeights(str(made.path))
    for name, delta in wanted({n: u.cut(1) for n, u in updates.items()}, stored).items():
        found = folded.tensor(name) - stored.tensor(name)
        torch.testing.assert_close(found, delta.reshape(found.shape), rtol=1e-3, atol=1e-4)


def test_merging_is_a_sum(make_file, stored, tmp_path) -> None:
    first, one = make_file("lora", 1, "one")
    second, two = make_file("loha", 2, "two")
    merges = [
        Merge(path=first, bake=Bake(weights="ALL=1, M00=0", unet=0.5, text_encoder=0.5)),
        Merge(path=second, bake=Bake(weights="ALL=1, OUT03=0", unet=-1, text_encoder=-1)),
    ]
    merged = merge_files(merges, tmp_path / "sum.safetensors", precision="fp32")
    strengths = [merge.bake.strength("sd1") for merge in merges]
    expected = {}
    for updates, strength in zip((one, two), strengths, strict=True):
        for path, delta in wanted(updates, stored).items():
            if strength.of(path):
                expected[path] = expected.get(path, 0) + delta * strength.of(path)
    close(deltas(merged.file.path, stored), expected)
    assert merged.worst_error == 0
    small = merge_files(merges, tmp_path / "small.safetensors", rank=3, precision="fp32")
    assert small.worst_error > 0
    assert small.file.bytes < merged.file.bytes
    with pytest.raises(ConfigError, match="nothing to merge"):
        merge_files([], tmp_path / "none.safetensors")


def test_resizing_keeps_the_largest_singular_values(make_file, stored, tmp_path) -> None:
    path, updates = make_file("lora")
    same = resize_file(path, RankRule(limit=2), tmp_path / "same.safetensors", precision="fp32")
    close(deltas(same.file.path, stored), wanted(updates, stored))
    one = resize_file(path, RankRule(limit=1), tmp_path / "one.safetensors", precision="fp32")
    found, expected = deltas(one.file.path, stored), wanted(updates, stored)
    for name, delta in expected.items():
        if delta.dim() > 1:
            values = torch.linalg.svdvals(delta.flatten(1).double())
            missed = torch.linalg.vector_norm((found[name] - delta).double())
            assert float(missed) == pytest.approx(float(values[1:].square().sum().sqrt()), rel=1e-3)
    assert read_adapters(one.file.path).metadata["ss_network_dim"] == "1"


def test_rank_rules_are_kohyas() -> None:
    values = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0])  # sum 16, squares 64 16 4 1 1 of 86
    assert RankRule(limit=3).rank(values) == 3
    assert RankRule(kind="ratio", value=4, limit=9).rank(values) == 2
    assert RankRule(kind="ratio", value=4.1, limit=9).rank(values) == 3
    assert RankRule(kind="cumulative", value=0.75, limit=9).rank(values) == 2
    assert RankRule(kind="cumulative", value=0.76, limit=9).rank(values) == 3
    assert RankRule(kind="frobenius", value=math.sqrt(80 / 86) - 1e-6, limit=9).rank(values) == 2
    assert RankRule(kind="frobenius", value=1, limit=4).rank(values) == 4
    for wrong in ({"limit": 0}, {"kind": "ratio", "value": 0.5}, {"kind": "frobenius"}):
        with pytest.raises(ConfigError):
            RankRule(**wrong)


def test_a_large_matrix_is_sketched_as_well_as_decomposed() -> None:
    chance = torch.Generator().manual_seed(3)
    left, right = torch.randn(200, 40, generator=chance), torch.randn(40, 180, generator=chance)
    matrix = (left * torch.logspace(0, -3, 40)) @ right
    found = best_factors(matrix, RankRule(limit=8))
    values = torch.linalg.svdvals(matrix.double())
    best = float((values[8:].square().sum() / values.square().sum()).sqrt())
    assert found.error == pytest.approx(best, rel=1e-3)
    missed = torch.linalg.matrix_norm(found.up_OR @ found.down_RI - matrix)
    assert float(missed / torch.linalg.matrix_norm(matrix)) == pytest.approx(best, rel=1e-3)
    again = resized(found, RankRule(limit=4))
    assert len(again.down_RI) == 4


def test_exact_factors_of_thin_kronecker_products() -> None:
    chance = torch.Generator().manual_seed(3)

    def normal(*shape):
        return torch.randn(shape, generator=chance)

    for w1 in ({"lokr_w1": normal(3, 2)}, {"lokr_w1_a": normal(3, 2), "lokr_w1_b": normal(2, 2)}):
        tensors = {**w1, "lokr_w2_a": normal(4, 2), "lokr_w2_b": normal(2, 5)}
        found = exact_factors(tensors)
        expected = Update(tensors).delta(torch.zeros(12, 10))
        torch.testing.assert_close(found.up_OR @ found.down_RI, expected)
    assert exact_factors({"diff": normal(2, 2)}) is None


@pytest.mark.parametrize("algorithm", ["lora", "dora on outputs", "oft"])
def test_folding_into_a_checkpoint(make_file, stored, thin_checkpoint, tmp_path, algorithm) -> None:
    path, updates = make_file(algorithm)
    merge = Merge(path=path, bake=Bake(weights="ALL=1, M00=0", unet=0.5))
    before = load_file(thin_checkpoint)
    folded = fold_files(str(thin_checkpoint), [merge], tmp_path / "folded.safetensors")
    after = load_file(folded.path)
    assert {k: (v.shape, v.dtype) for k, v in after.items()} == {
        k: (v.shape, v.dtype) for k, v in before.items()
    }
    new = StoredWeights(folded.path)
    strength = merge.bake.strength("sd1")
    changed = set()
    for name, update in updates.items():
        own = stored.tensor(name).float()
        expected = own + strength.of(name) * update.delta(own)
        torch.testing.assert_close(new.tensor(name).float(), expected, atol=1e-5, rtol=1e-5)
        changed.add(stored.place(name).name)
    left = [name for name in before if not torch.equal(before[name], after[name])]
    biases = {name.replace("weight", "bias") for name in changed}
    assert set(left) <= changed | biases
    assert new.checkpoint.metadata["modelspec.resolution"] == "64x64"
    half = fold_files(
        str(thin_checkpoint), [merge], tmp_path / "half.safetensors", precision="bf16"
    )
    assert {t.dtype for t in load_file(half.path).values()} == {torch.bfloat16}


def test_what_was_folded_in_is_found_again(make_file, stored, thin_checkpoint, tmp_path) -> None:
    path, updates = make_file("lora")
    merge = Merge(path=path, bake=Bake(weights="ALL"))
    folded = fold_files(str(thin_checkpoint), [merge], tmp_path / "folded.safetensors")
    found = extract_file(
        str(folded.path), str(thin_checkpoint), tmp_path / "found.safetensors", RankRule(limit=2),
        conv_rank=2, precision="fp32",
    )  # fmt: skip
    targets = find_targets(stored.parts)
    expected = {p: d for p, d in wanted(updates, stored).items() if p in targets}
    close(deltas(found.file.path, stored), expected, part=1e-3)
    linear = extract_file(
        str(folded.path), str(thin_checkpoint), tmp_path / "linear.safetensors", RankRule(limit=2)
    )
    assert not any("resnets" in key for key in read_adapters(linear.file.path).layers)
    assert linear.file.modules < found.file.modules
    with pytest.raises(ConfigError, match="do not differ"):
        extract_file(
            str(thin_checkpoint), str(thin_checkpoint), tmp_path / "no.safetensors", RankRule()
        )


def test_the_tag_for_a_file(make_file) -> None:
    path, _ = make_file("lora")
    tag = Tag(name="net", unet=0.8, text_encoder=0.8, weights="INS")
    assert tag_for(path, tag) == "<lora:net:0.8:lbw=INS>"
    ranges = Tag(name="net", weights="ALL=1, OUT03=0")
    vector = ",".join("0" if block == 17 else "1" for block in range(26))
    assert tag_for(path, ranges) == f"<lora:net:1:lbw={vector}>"
    assert tag_for(path, ranges, "inspire").startswith("<lora:net:1:1:LBW=1,1,1,")
    with pytest.raises(ConfigError, match="NOFACES"):
        tag_for(path, Tag(name="net", weights="NOFACES"))


def test_a_presets_name_is_kept_where_it_means_the_same_elsewhere(make_file) -> None:
    locon, _ = make_file("lora")  # it adapts blocks that a vector of 17 does not name
    everything = tag_for(locon, Tag(name="net", weights="ALL"))
    assert everything == f"<lora:net:1:lbw={','.join('1' * 26)}>"
    own = {"INS": "ALL=0.5"}
    assert tag_for(locon, Tag(name="net", weights="INS"), presets=own) == (
        f"<lora:net:1:lbw={','.join(['0.5'] * 26)}>"
    )
    assert tag_for(locon, Tag(name="net", weights="NONE")) == "<lora:net:1:lbw=NONE>"


def test_rules_for_elements_are_kept_apart(make_file) -> None:
    path, _ = make_file("lora")
    tag = tag_for(path, Tag(name="net", weights="INS; OUT03:attn2:0.5"))
    assert tag == "<lora:net:1:lbw=INS:lbwe=OUT03:attn2:0.5>"
    assert read_tag(tag).elements == "OUT03:attn2:0.5"
    both = Tag(name="net", weights="INS; OUT03:attn2:0.5", elements="M00:ff:0")
    assert tag_for(path, both) == "<lora:net:1:lbw=INS:lbwe=OUT03:attn2:0.5,M00:ff:0>"
    drawn = Tag(name="net", weights="INS", elements="M00:ff:R")
    assert tag_for(path, drawn) == "<lora:net:1:lbw=INS:lbwe=M00:ff:R>"
    with pytest.raises(ConfigError, match="elements"):
        tag_for(path, Tag(name="net", weights="INS; OUT03:attn2:0.5"), "inspire")


@pytest.mark.parametrize(
    ("before", "after", "elements"),
    [("mine:", "", ""), ("柔和：", "", ""), ("", "；M00:ff:0", ":lbwe=M00:ff:0")],
)
def test_a_vector_stands_in_a_tag_without_its_label(make_file, before, after, elements) -> None:
    path, _ = make_file("lora")
    vector = ",".join(["R"] + ["1"] * 25)
    tag = tag_for(path, Tag(name="net", weights=f"{before}{vector}{after}"))
    assert tag == f"<lora:net:1:lbw={vector}{elements}>"


def test_training_again_takes_whole_blocks() -> None:
    recipe = Recipe(dataset=DatasetConfig(folder="."))
    weights = BlockWeights.parse("M00=1, OUT03=0.5")
    assert recipe_with_blocks(recipe, weights).network.blocks == "M00 OUT03"
    rules = BlockWeights.parse("M00=1, OUT03=0.5; OUT03::0,IN03::1,M00::0,M00::0.5")
    assert recipe_with_blocks(recipe, rules).network.blocks == "IN03 M00"
    for text, words in (
        ("M00=1; OUT03:attn:0", "OUT03:attn:0"),
        ("NONE", "every block off"),
        ("M00=1; M00::0", "every block off"),
    ):
        with pytest.raises(ConfigError, match=words):
            recipe_with_blocks(recipe, BlockWeights.parse(text))
