"""Strengths folded into a network: a file that does at strength 1 what they do live."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..adapters.decompose import Factors, RankRule, as_lora, factors_of
from ..adapters.forms import Update
from ..adapters.live import blocks_of
from ..adapters.strength import Strength
from ..errors import ConfigError
from ..files.adapter_file import AdapterFile, Layers
from ..files.names import paths_by_key
from ..models.stored_weights import StoredWeights

EXACT = 1e-6
"""Relative errors below it are fp32's own rounding."""

BY_DEFAULT = RankRule(kind="frobenius", value=0.999, limit=128)

BakeForm = Literal["lora", "same", "diff"]
Weight = Callable[[str, Update], Tensor]
"""A layer's weight by key; where only its shape is asked for, its numbers are no one's."""

_KERNEL = re.compile(
    r"_(?:conv1|conv2|in_layers_2|out_layers_3|op|conv)$|_conv_in$|_conv_out$|_input_blocks_0_0$"
)
_POINTWISE = re.compile(r"_(?:conv_shortcut|skip_connection)$")
_PROJECTION = re.compile(r"_proj_(?:in|out)$")


@dataclass(frozen=True, slots=True, kw_only=True)
class BakedLayers:
    """Layers to be written; errors: of each layer whose delta LoRA's factors do not hold whole.

    dropped: how many layers are left out, because their strength is 0. An error is the Frobenius
    norm of what is missed, relative to the layer's delta.
    """

    layers: Layers
    errors: Mapping[str, float] = field(default_factory=dict)
    dropped: int = 0

    @property
    def worst_error(self) -> float:
        """The largest of the errors; 0 where all is exact."""
        return max(self.errors.values(), default=0.0)


def bake_layers(
    updates: Mapping[str, Update],
    strength: Strength,
    form: BakeForm,
    weight: Weight,
    rule: RankRule | None = None,
) -> BakedLayers:
    """Fold strengths into updates by key, fp32; layers at 0 are left out.

    form: "lora" for any tool, exact where the update is a product of two factors, otherwise by
    singular values with the error told; rule says which ranks layers get (None: products of up to
    rank 128 stay whole, of the others 99.9 % within that rank). "same" keeps each layer's own form;
    "diff" writes whole deltas, which are exact and large. Norms and biases keep theirs in any case.
    ConfigError where nothing is left.
    """
    layers: Layers = {}
    errors: dict[str, float] = {}
    for key, update in updates.items():
        ratio = strength.of(key)
        if ratio == 0:
            continue
        if form == "same" or update.form.name in {"norm", "bias"}:
            layers[key] = dict(update.times(ratio).tensors)
            continue
        own = weight(key, update)
        if form == "diff":
            delta = update.delta(own)
            layers[key] = {} if delta is None else {"diff": delta * ratio}
        else:
            factors = factors_of(update, own, rule or BY_DEFAULT, whole=rule is None)
            errors |= {key: factors.error} if factors.error > EXACT else {}
            scaled = Factors(factors.up_OR * ratio, factors.down_RI)
            layers[key] = as_lora(scaled, tuple(own.shape))
        bias = update.bias_delta()
        layers[key] |= {} if bias is None else {"diff_b": bias * ratio}
    if not layers:
        chosen = strength.block_weights
        raise ConfigError(
            f"nothing is left to bake: {chosen.label if chosen else 'strength 0'} turns off every "
            f"block that this network has ({', '.join(blocks_of(updates))}). Choose weights that "
            "leave at least one of them on."
        )
    return BakedLayers(layers=layers, errors=errors, dropped=len(updates) - len(layers))


def weights_for(file: AdapterFile, checkpoint: str) -> Weight:
    """Where layers' weights come from: a checkpoint, or none where only their shapes are asked for.

    Without one, shapes are those of the names: which layers of a family are convolutions is known.
    ConfigError, when asked for a layer whose delta depends on the weight.
    """
    if not checkpoint:
        return _shapes_by_name(file.family or "sd1")
    stored = StoredWeights(checkpoint)
    paths = paths_by_key(stored.layers, stored.family.key)

    def weight(key: str, update: Update) -> Tensor:
        if key not in paths:
            raise ConfigError(
                f"{key} is not in {stored.path.name}: give the checkpoint that the network is for"
            )
        if update.needs_weight:
            return stored.tensor(paths[key]).float()
        return torch.empty(stored.layers[paths[key]].get_parameter("weight").shape)

    return weight


def _shapes_by_name(family: str) -> Weight:
    def weight(key: str, update: Update) -> Tensor:
        if update.needs_weight:
            name = "DoRA" if "dora_scale" in update.tensors else update.form.title
            raise ConfigError(
                f"{name} changes a layer by what its weight is: name the base model to bake it "
                "(checkpoint)"
            )
        return torch.empty(_shape(key, update, family))

    return weight


def _shape(key: str, update: Update, family: str) -> tuple[int, ...]:
    """The shape of a layer's weight by its name and the sizes of its update."""
    t = update.tensors
    for name in ("diff", "w_norm"):
        if name in t:
            return tuple(t[name].shape)
    kernel: tuple[int, ...] = ()
    if key.startswith("lora_unet_"):
        pointwise = _POINTWISE.search(key) or (family == "sd1" and _PROJECTION.search(key))
        kernel = (3, 3) if _KERNEL.search(key) else (1, 1) if pointwise else ()
    outputs, inputs = _sides(t)
    area = kernel[0] * kernel[1] if kernel else 1
    if inputs % area:
        raise ConfigError(f"{key}: {inputs} inputs are none of a layer with a kernel of {kernel}")
    return (outputs, inputs // area, *kernel)


def _sides(t: Mapping[str, Tensor]) -> tuple[int, int]:
    """Outputs, and inputs with the kernel, of a form that does not depend on the weight."""
    if "lora_up.weight" in t:
        kernel = t["lora_mid.weight"][0, 0].numel() if "lora_mid.weight" in t else 1
        return len(t["lora_up.weight"]), t["lora_down.weight"][0].numel() * kernel
    if "hada_w1_a" in t:
        if "hada_t1" in t:
            kernel = t["hada_t1"][0, 0].numel()
            return t["hada_w1_a"].shape[1], t["hada_w1_b"].shape[1] * kernel
        return len(t["hada_w1_a"]), t["hada_w1_b"][0].numel()
    delta = Update({name: tensor.to("meta") for name, tensor in t.items()}).form.delta
    assert delta is not None
    product = delta({n: x.to("meta") for n, x in t.items()}, torch.empty(0, device="meta"))
    return len(product), product[0].numel()
