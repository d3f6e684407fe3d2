"""Several networks in one, other ranks, and networks from the difference of two checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..adapters.decompose import (
    Factors,
    RankRule,
    as_lora,
    best_factors,
    concatenated,
    factors_of,
    resized,
)
from ..adapters.forms import Update
from ..adapters.strength import Strength
from ..adapters.targets import find_targets, is_between_transformers
from ..errors import ConfigError
from ..files.adapter_file import Layers
from ..files.names import kohya_key
from ..models.stored_weights import StoredWeights
from .bake import BY_DEFAULT, EXACT, BakedLayers, Weight


@dataclass(frozen=True, slots=True)
class Ingredient:
    """One of several networks that are merged: its updates by key, and how strongly it counts."""

    updates: Mapping[str, Update]
    strength: Strength


def merge_layers(
    ingredients: Sequence[Ingredient], weight: Weight, rule: RankRule | None = None
) -> BakedLayers:
    """Add networks up, each with its own strengths and block weights.

    Without a rule factors stand one beside the other, which is exact, and their ranks add up; else
    the best ones that it keeps. Norms and biases are added as they are. ConfigError where nothing
    is left.
    """
    factors: dict[str, list[Factors]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    layers: Layers = {}
    errors: dict[str, float] = {}
    for ingredient in ingredients:
        for key, update in ingredient.updates.items():
            ratio = ingredient.strength.of(key)
            if ratio == 0:
                continue
            if update.form.name in {"norm", "bias"}:
                _add(layers.setdefault(key, {}), update.times(ratio))
                continue
            own = weight(key, update)
            found = factors_of(update, own, BY_DEFAULT, whole=True)
            errors[key] = max(errors.get(key, 0.0), found.error)
            factors.setdefault(key, []).append(found._replace(up_OR=found.up_OR * ratio))
            shapes[key] = tuple(own.shape)
            bias = update.bias_delta()
            if bias is not None:
                _add(layers.setdefault(key, {}), Update({"diff_b": bias * ratio}))
    for key, parts in factors.items():
        total = concatenated(parts)
        widest = min(len(total.up_OR), total.down_RI.shape[1])
        if rule is not None or len(total.down_RI) > widest:
            total = resized(total, rule or RankRule(limit=widest))
            errors[key] = max(errors[key], total.error)
        layers.setdefault(key, {}).update(as_lora(total, shapes[key]))
    if not layers:
        raise ConfigError("nothing is left to merge: every network is turned off everywhere")
    return BakedLayers(
        layers=layers, errors={key: error for key, error in errors.items() if error > EXACT}
    )


def resize_layers(updates: Mapping[str, Update], weight: Weight, rule: RankRule) -> BakedLayers:
    """Give every layer the rank that `rule` keeps of it, by its singular values."""
    layers: Layers = {}
    errors: dict[str, float] = {}
    for key, update in updates.items():
        if update.form.name in {"norm", "bias"}:
            layers[key] = dict(update.tensors)
            continue
        own = weight(key, update)
        found = factors_of(update, own, rule)
        errors[key] = found.error
        layers[key] = as_lora(found, tuple(own.shape))
        bias = update.bias_delta()
        layers[key] |= {} if bias is None else {"diff_b": bias}
    return BakedLayers(layers=layers, errors={k: e for k, e in errors.items() if e > EXACT})


def extract_layers(
    tuned: StoredWeights, base: StoredWeights, rule: RankRule, conv_rule: RankRule | None
) -> BakedLayers:
    """Find the network that turns `base` into `tuned`, as far as `rule` allows.

    conv_rule: for the layers between the transformers too (LoCon); None leaves them out. Layers
    that do not differ are left out. ConfigError where families or all of the layers do not fit.
    """
    if tuned.family is not base.family:
        raise ConfigError(
            f"{tuned.path.name} is {tuned.family.title} and {base.path.name} is "
            f"{base.family.title}; give two checkpoints of one family"
        )
    layers: Layers = {}
    errors: dict[str, float] = {}
    for path in find_targets(base.parts):
        between = is_between_transformers(path)
        chosen = conv_rule if between else rule
        if chosen is None or path not in tuned.layers:
            continue
        changed, own = tuned.tensor(path), base.tensor(path)
        if changed.shape != own.shape:
            raise ConfigError(
                f"{path} is {list(changed.shape)} in {tuned.path.name} and {list(own.shape)} in "
                f"{base.path.name}; give two checkpoints of one model"
            )
        delta = changed.float() - own.float()
        if not bool(delta.any()):
            continue
        found = best_factors(delta.flatten(1), chosen)
        key = kohya_key(path, base.family.key)
        errors[key] = found.error
        layers[key] = as_lora(found, tuple(own.shape))
    if not layers:
        raise ConfigError(
            f"{tuned.path.name} and {base.path.name} do not differ in any layer that a LoRA changes"
        )
    return BakedLayers(layers=layers, errors={k: e for k, e in errors.items() if e > EXACT})


def _add(own: dict, update: Update) -> None:
    for name, tensor in update.tensors.items():
        own[name] = own[name] + tensor if name in own else tensor
