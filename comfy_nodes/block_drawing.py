"""The cells of a block-weight grid by ComfyUI's sampler: equal ones once, known ones not again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from ..core.session import BlockWeights, Strength
from .protocol import Graph, Host, Sampling
from .values import Lora

MOST_CELLS = 512  # that a node remembers between two runs

Prompts = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is drawn: a LoRA on a graph's model, with these strengths of its two parts."""

    graph: Graph
    lora: Lora
    sampling: Sampling
    prompts: tuple[tuple[str, str], ...]
    strength_model: float = 1.0
    strength_clip: float = 1.0

    def strength(self, weights: BlockWeights) -> Strength:
        """The strength of each layer under block weights."""
        return Strength(
            unet=self.strength_model, text_encoder=self.strength_clip, block_weights=weights
        )

    def patched(self, host: Host, weights: BlockWeights) -> Graph:
        """The graph's MODEL and CLIP with the LoRA under block weights."""
        return host.patched(self.graph, self.lora.tensors, self.strength(weights).of)


class CellMemory:
    """Pictures of a node's last runs; those of another model, LoRA or text encoder are not taken.

    MODEL, CLIP and LORA are the same where ComfyUI has them from its cache.
    """

    def __init__(self) -> None:
        self._owners: tuple[object, ...] = ()
        self._cells: OrderedDict[object, Image.Image] = OrderedDict()

    def of(self, study: Study) -> OrderedDict[object, Image.Image]:
        """The pictures that were drawn with the same objects."""
        owners = (study.graph.model, study.graph.clip, study.graph.vae, study.lora)
        same = len(owners) == len(self._owners) and all(
            own is known for own, known in zip(owners, self._owners, strict=True)
        )
        if not same:
            self._owners, self._cells = owners, OrderedDict()
        while len(self._cells) > MOST_CELLS:
            self._cells.popitem(last=False)
        return self._cells


def draw_columns(
    host: Host,
    study: Study,
    columns: Sequence[BlockWeights],
    memory: CellMemory,
    on_step: Callable[[int, int, Image.Image | None], None],
) -> list[list[Image.Image]]:
    """A picture for each of the columns and, within them, each prompt.

    on_step(done, total, picture): after each sampling step and each picture.
    """
    known, keys = memory.of(study), study.lora.keys()
    ratios = [_ratios(study, weights, keys) for weights in columns]
    wanted: dict[tuple[float, ...], tuple[BlockWeights, list[int]]] = {}
    for weights, own in zip(columns, ratios, strict=True):
        missing = [row for row in range(len(study.prompts)) if _key(study, own, row) not in known]
        if missing:
            wanted.setdefault(own, (weights, missing))
    total = sum(len(rows) for _, rows in wanted.values()) * study.sampling.steps
    done = 0

    def step(picture: Image.Image | None) -> None:
        nonlocal done
        done += picture is None
        on_step(min(done, total), total, picture)

    for own, (weights, rows) in wanted.items():
        graph = study.patched(host, weights)
        for row in rows:
            sampling = replace(study.sampling, seed=study.sampling.seed + row)
            known[_key(study, own, row)] = host.draw(graph, [study.prompts[row]], sampling, step)[0]
    return [[known[_key(study, own, row)] for row in range(len(study.prompts))] for own in ratios]


def _ratios(study: Study, weights: BlockWeights, keys: Sequence[str]) -> tuple[float, ...]:
    strength = study.strength(weights)
    return tuple(strength.of(key) for key in keys)


def _key(study: Study, ratios: tuple[float, ...], row: int) -> tuple[object, ...]:
    """What a picture depends on beside the model; the base's own picture is one for all."""
    acting = ratios if any(ratios) else ()
    return (acting, study.prompts[row], study.sampling, row)


def strengths_by_block(weights: BlockWeights) -> Mapping[str, float]:
    """The ratios by block, for the panel."""
    return dict(weights.ratios)
