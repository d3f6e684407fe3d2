"""Files made of network files: baked, resized, merged, extracted, or folded into a checkpoint."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..adapters.block_weights import BlockWeights
from ..adapters.blocks import every_block
from ..adapters.decompose import RankRule
from ..adapters.forms import Update
from ..adapters.inspire import positions_of
from ..adapters.live import blocks_of
from ..adapters.strength import Strength
from ..adapters.tags import Dialect, Tag, tag_elsewhere, write_tag
from ..config.recipe import Recipe
from ..errors import ConfigError
from ..events import Finding
from ..files.adapter_file import AdapterFile, Layers, read_adapters, write_adapters
from ..files.atomic import refuse_existing
from ..files.network_file import WrittenFile
from ..models.networks import unknown_text, updates_by_path
from ..models.stored_weights import StoredWeights
from .bake import BakedLayers, BakeForm, bake_layers, weights_for
from .checkpoint import WrittenCheckpoint, fold_into_checkpoint
from .combine import Ingredient, extract_layers, merge_layers, resize_layers

_BASE_VERSIONS = {"sd1": "sd_v1", "sd2": "sd_v2", "sdxl": "sdxl_base_v1-0"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Bake:
    """What to fold into a file: block weights, read or as users write them; the parts' strengths.

    form: "lora" for every tool, "same" keeps each layer's own, "diff" writes whole deltas. rank:
    the largest that layers get; 0 keeps products of factors whole, and 99.9 % of other deltas,
    both within rank 128. checkpoint: the base model, for DoRA, IA3, GLoRA and OFT. precision: ""
    keeps that of the file. dylora_rank: components of a DyLoRA that are used, 0 for all. seed: for
    R and U among the weights. presets: the user's own, by name.
    """

    weights: str | BlockWeights
    unet: float = 1.0
    text_encoder: float = 1.0
    form: BakeForm = "lora"
    rank: int = 0
    checkpoint: str = ""
    precision: str = ""
    dylora_rank: int = 0
    seed: int = 1
    presets: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("unet", "text_encoder"):
            if not math.isfinite(getattr(self, name)):
                raise ConfigError(f"--{name} is {getattr(self, name)}; it must be a number")

    def strength(self, family: str) -> Strength:
        """Return the strengths for a network of this family."""
        weights = BlockWeights.parse(self.weights, family, seed=self.seed, presets=self.presets)
        return Strength(unet=self.unet, text_encoder=self.text_encoder, block_weights=weights)

    @property
    def text(self) -> str:
        """The weights as a user would write them."""
        return self.weights if isinstance(self.weights, str) else self.weights.text()

    @property
    def rule(self) -> RankRule | None:
        """The ranks that layers get; None where none are asked for."""
        return RankRule(limit=self.rank) if self.rank else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Baked:
    """A file that was made of others, and what its user should know.

    worst_error: of the layers that LoRA's factors hold only in part, the norm of what is missed,
    relative to the layer's delta; 0 where all is exact.
    """

    file: WrittenFile
    findings: tuple[Finding, ...]
    worst_error: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Merge:
    """One of several networks to merge: its file, and how strongly it counts."""

    path: Path
    bake: Bake = field(default_factory=lambda: Bake(weights="ALL"))


def bake_file(
    source: Path,
    bake: Bake,
    output: Path | None = None,
    *,
    overwrite: bool = False,
    extra: Mapping[str, str] | None = None,
    keep_metadata: bool = True,
) -> Baked:
    """Fold block weights into a file that draws at strength 1 what they draw live.

    Of any algorithm, into plain LoRA unless `bake.form` says otherwise. Without `output` the name
    is SOURCE-LABEL.safetensors. Layers at 0 are left out. extra: metadata beside the source's, or
    alone where that is not kept. Raises FileError, ConfigError.
    """
    file = read_adapters(source)
    strength = bake.strength(file.family or "sd1")
    weights = strength.block_weights
    output = output or source.with_name(f"{source.stem}-{_file_label(weights)}.safetensors")
    if not overwrite:
        refuse_existing(output)
    updates = _updates(file, bake.dylora_rank)
    weight = weights_for(file, bake.checkpoint)
    baked = bake_layers(updates, strength, bake.form, weight, bake.rule)
    metadata = {
        **_metadata(file, output, baked.layers),
        "lora_loop.baked_block_weights": weights.text() if weights else "",
        "lora_loop.baked_strengths": f"unet {bake.unet:g}, text encoder {bake.text_encoder:g}",
    }
    metadata = {**(metadata if keep_metadata else {}), **(extra or {})}
    written = write_adapters(
        output, baked.layers, metadata, bake.precision or file.precision, overwrite=overwrite
    )
    own = weights.finding(blocks_of(updates)) if weights else None
    findings = (own, *_findings(file, baked))
    return Baked(
        file=written,
        findings=tuple(finding for finding in findings if finding is not None),
        worst_error=baked.worst_error,
    )


def resize_file(
    source: Path,
    rule: RankRule,
    output: Path | None = None,
    *,
    checkpoint: str = "",
    precision: str = "",
    overwrite: bool = False,
) -> Baked:
    """Write a plain LoRA of other ranks, by the singular values of each layer's delta.

    Without `output` the name is SOURCE-resized.safetensors.
    """
    file = read_adapters(source)
    output = output or source.with_name(f"{source.stem}-resized.safetensors")
    if not overwrite:
        refuse_existing(output)
    resized = resize_layers(_updates(file), weights_for(file, checkpoint), rule)
    metadata = _metadata(file, output, resized.layers)
    written = write_adapters(
        output, resized.layers, metadata, precision or file.precision, overwrite=overwrite
    )
    found = _findings(file, resized)
    return Baked(file=written, findings=found, worst_error=resized.worst_error)


def merge_files(
    merges: Sequence[Merge],
    output: Path,
    *,
    rank: int = 0,
    checkpoint: str = "",
    precision: str = "",
    overwrite: bool = False,
) -> Baked:
    """Write one plain LoRA that draws what several draw together, each with its own strengths.

    rank: 0 puts the factors side by side, which is exact and adds the ranks up; else the best
    factors of that rank.
    """
    if not overwrite:
        refuse_existing(output)
    files = [read_adapters(merge.path) for merge in merges]
    if not files:
        raise ConfigError("there is nothing to merge; name at least one network")
    families = {file.family for file in files if file.family}
    if len(families) > 1:
        listed = ", ".join(f"{file.path.name} is for {file.family}" for file in files)
        raise ConfigError(f"networks of different families can't be merged: {listed}")
    family = next(iter(families), "sd1")
    first = replace(files[0], family=family)
    merged = merge_layers(
        [
            Ingredient(_updates(file, merge.bake.dylora_rank), merge.bake.strength(family))
            for file, merge in zip(files, merges, strict=True)
        ],
        weights_for(first, checkpoint),
        RankRule(limit=rank) if rank else None,
    )
    metadata = _metadata(first, output, merged.layers)
    metadata["lora_loop.merged"] = "; ".join(
        f"{m.path.name}: {m.bake.text}, unet {m.bake.unet:g}, text encoder {m.bake.text_encoder:g}"
        for m in merges
    )
    written = write_adapters(
        output, merged.layers, metadata, precision or first.precision, overwrite=overwrite
    )
    findings = tuple(note for file in files for note in _findings(file, None))
    return Baked(
        file=written,
        findings=(*findings, *_findings(None, merged)),
        worst_error=merged.worst_error,
    )


def extract_file(
    tuned: str,
    base: str,
    output: Path,
    rule: RankRule,
    *,
    conv_rank: int = 0,
    precision: str = "fp16",
    overwrite: bool = False,
) -> Baked:
    """Write the LoRA that turns the checkpoint `base` into `tuned`, as far as `rule` allows.

    conv_rank: for the layers between the transformers too; 0 leaves them as they are.
    """
    if not overwrite:
        refuse_existing(output)
    changed, own = StoredWeights(tuned), StoredWeights(base)
    conv_rule = replace(rule, limit=conv_rank) if conv_rank else None
    found = extract_layers(changed, own, rule, conv_rule)
    metadata = {
        "ss_base_model_version": _BASE_VERSIONS[own.family.key],
        "ss_v2": str(own.family.key == "sd2"),
        "ss_sd_model_name": own.path.name,
        "lora_loop.extracted": f"{changed.path.name} - {own.path.name}",
        **_ranks(output, found.layers),
    }
    written = write_adapters(output, found.layers, metadata, precision, overwrite=overwrite)
    findings = _findings(None, found)
    return Baked(file=written, findings=findings, worst_error=found.worst_error)


def fold_files(
    checkpoint: str,
    merges: Sequence[Merge],
    output: Path,
    *,
    precision: str = "",
    overwrite: bool = False,
) -> WrittenCheckpoint:
    """Write a checkpoint with networks of any algorithm in it, each with its own strengths."""
    if not overwrite:
        refuse_existing(output)
    weights = StoredWeights(checkpoint)
    family = weights.family.key
    ingredients = []
    for merge in merges:
        file = read_adapters(merge.path)
        if file.family not in {None, family}:
            raise ConfigError(
                f"{merge.path} is for {file.family}, and {weights.path.name} is "
                f"{weights.family.title}; give a checkpoint of its family"
            )
        whole = updates_by_path(file, weights.layers, family)
        updates = {path: update.cut(merge.bake.dylora_rank) for path, update in whole.items()}
        ingredients.append(Ingredient(updates, merge.bake.strength(family)))
    return fold_into_checkpoint(
        weights, ingredients, output, precision=precision, overwrite=overwrite
    )


def recipe_with_blocks(recipe: Recipe, weights: BlockWeights) -> Recipe:
    """Return the recipe that trains again with the blocks that these weights leave on.

    Rules for all elements of a block count. ConfigError where no block is left, or rules for some
    elements say more than blocks can.
    """
    partial = [rule.text() for rule in weights.elements if rule.elements]
    if partial:
        raise ConfigError(
            "these block weights have rules for elements, and a training takes whole blocks; leave "
            f"out {','.join(partial)!r}"
        )
    rules = weights.elements[::-1]  # the last one that matches counts
    on = " ".join(
        block
        for block in every_block("sd1")  # SDXL's are the first of them
        if next((r.ratio for r in rules if r.matches(block, "")), weights.ratio(block)) != 0
    )
    if not on:
        raise ConfigError("these block weights turn every block off: nothing would be trained")
    return replace(recipe, network=replace(recipe.network, blocks=on))


def tag_for(
    network: Path,
    tag: Tag,
    dialect: Dialect = "lbw",
    presets: Mapping[str, str] | None = None,
) -> str:
    """Write a tag for a network's file, for use in another tool.

    Block weights that only we can read (ranges, presets of our own or the user's) become a vector,
    of the blocks with attention where the file has no others.
    """
    file = read_adapters(network)
    family = file.family or "sd1"
    chosen = tag.strength(family, seed=0, presets=presets).block_weights
    if chosen is not None and tag.weights:
        own = BlockWeights.parse(tag.weights, family, x=tag.x, seed=0, presets=presets)
        if own.elements:
            tag = replace(tag, elements="")  # they are among the chosen ones, after these
        written = re.split("[;；]", tag.weights)[0]
        written = re.split("[:：]", written)[-1]  # a label would end the tag's part
        tag = tag_elsewhere(tag, chosen, family, blocks_of(file.layers), written)
    return write_tag(tag, dialect, family, positions_of(file.layers))


def _updates(file: AdapterFile, rank: int = 0) -> dict[str, Update]:
    updates = {key: Update(tensors) for key, tensors in file.layers.items()}
    for key, update in updates.items():
        with named(f"{file.path}: {key}"):
            _ = update.form
    return {key: update.cut(rank) for key, update in updates.items()}


@contextmanager
def named(place: str) -> Iterator[None]:
    """Say in a ConfigError of the with block where it happened."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def _file_label(weights: BlockWeights | None) -> str:
    label = weights.label if weights and weights.label else "baked"
    return re.sub(r"[^\w.-]", "_", label)[:60]


def _metadata(file: AdapterFile, output: Path, layers: Layers) -> dict[str, str]:
    """The source's metadata with what is no longer true of the file put right."""
    kept = {key: text for key, text in file.metadata.items() if not key.startswith("sshs_")}
    if file.family and "ss_base_model_version" not in kept:
        kept["ss_base_model_version"] = _BASE_VERSIONS[file.family]
        kept["ss_v2"] = str(file.family == "sd2")
    return kept | _ranks(output, layers)


def _ranks(output: Path, layers: Layers) -> dict[str, str]:
    ranks = {len(own["lora_down.weight"]) for own in layers.values() if "lora_down.weight" in own}
    named = {"ss_output_name": output.stem}
    if not ranks:
        return named
    shown = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    return {
        **named,
        "ss_network_module": "networks.lora",
        "ss_network_dim": shown,
        "ss_network_alpha": shown,
    }


def _findings(file: AdapterFile | None, made: BakedLayers | None) -> tuple[Finding, ...]:
    texts = []
    if file is not None and file.unknown:
        texts.append(unknown_text(file))
    if made is not None and made.errors:
        worst = max(made.errors, key=made.errors.__getitem__)
        texts.append(
            f"{len(made.errors)} of {len(made.layers)} layers are kept in part: what is missed is "
            f"{made.worst_error:.2%} of the change at most ({worst}); a larger rank keeps more"
        )
    return tuple(Finding(level="warning", text=text) for text in texts)
