"""The cells of a grid by ComfyUI's sampler: equal ones once, known ones not again."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from PIL import Image

from ..core.session import Cell, Strength, Table, graphwork
from .lora_files import read_lora
from .protocol import Graph, Host, Sampling
from .values import Lora
from .words import Language, said

MOST_CELLS = 512  # that a node remembers between two runs

Key = tuple[object, ...]
OnStep = Callable[[int, int, Image.Image | None], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """What is drawn: a LoRA on a graph's model, with these strengths of its two parts."""

    graph: Graph
    lora: Lora
    sampling: Sampling
    strength_model: float = 1.0
    strength_clip: float = 1.0

    def strength(self, cell: Cell) -> Strength:
        """How strongly each layer acts in a cell."""
        return Strength(
            unet=cell.unet * self.strength_model,
            text_encoder=cell.text_encoder * self.strength_clip,
            block_weights=cell.weights,
        )

    def facts(self, language: Language) -> str:
        """What all cells have in common, in a line."""
        sampling = self.sampling
        width, height = sampling.width, sampling.height
        strengths = {"model": self.strength_model, "clip": self.strength_clip}
        return " | ".join(
            [
                f"{sampling.sampler} {sampling.scheduler}",
                said("steps", language, steps=sampling.steps),
                f"CFG {sampling.cfg:g}",
                said("size", language, width=width, height=height),
                said("strength", language, **strengths),
            ]
        )


class CellMemory:
    """Pictures of a node's last runs; those of another model, LoRA or text encoder are not taken.

    MODEL, CLIP and LORA are the same objects where ComfyUI has them from its cache.
    """

    def __init__(self) -> None:
        self._owners: tuple[object, ...] = ()
        self._pictures: OrderedDict[Key, Image.Image] = OrderedDict()

    def of(self, study: Study) -> OrderedDict[Key, Image.Image]:
        """The pictures that were drawn with the same objects."""
        owners = (study.graph.model, study.graph.clip, study.graph.vae, study.lora)
        same = len(owners) == len(self._owners) and all(
            own is known for own, known in zip(owners, self._owners, strict=True)
        )
        if not same:
            self._owners, self._pictures = owners, OrderedDict()
        while len(self._pictures) > MOST_CELLS:
            self._pictures.popitem(last=False)
        return self._pictures


class TablePainter:
    """Draws a table's cells with a host, those that are not remembered."""

    def __init__(self, host: Host, study: Study, memory: CellMemory) -> None:
        self._host, self._study = host, study
        self._known = memory.of(study)
        self._loras = {"": study.lora}

    def paint(self, table: Table, on_step: OnStep) -> None:
        """Draw what is missing. on_step(done, total, picture): after each step and picture."""
        groups: dict[Key, dict[Key, Cell]] = {}
        for cell in _with_references(table):
            key = self.key(cell)
            if key not in self._known:
                groups.setdefault(key[:2], {}).setdefault(key, cell)
        total = sum(map(len, groups.values())) * self._study.sampling.steps
        done = 0

        def step(picture: Image.Image | None) -> None:
            nonlocal done
            done += picture is None
            on_step(min(done, total), total, picture)

        for group in groups.values():
            graph = self._patched(next(iter(group.values())))
            for key, cell in group.items():
                sampling = replace(self._study.sampling, seed=cell.seed)
                prompt = (cell.prompt.text, cell.prompt.negative)
                self._known[key] = self._host.draw(graph, [prompt], sampling, step)[0]

    def picture(self, cell: Cell) -> Image.Image:
        """A cell's picture, once it was painted."""
        return self._known[self.key(cell)]

    def key(self, cell: Cell) -> Key:
        """What a picture depends on beside the model; what turns all off is one picture for all."""
        strength = self._study.strength(cell)
        ratios = tuple(strength.of(key) for key in self._lora(cell.network).layers())
        acting: Key = (cell.network, ratios) if any(ratios) else ("", ())
        sampling = replace(self._study.sampling, seed=cell.seed)
        return (*acting, cell.prompt, sampling)

    def _patched(self, cell: Cell) -> Graph:
        strength = self._study.strength(cell)
        tensors = self._lora(cell.network).tensors
        return self._host.patched(self._study.graph, tensors, strength.of)

    def _lora(self, name: str) -> Lora:
        if name not in self._loras:
            self._loras[name] = read_lora(self._host.lora_path(name))
        return self._loras[name]


def _with_references(table: Table) -> Sequence[Cell]:
    cells = [cell for _, cell in table.places()]
    references = [graphwork.without_network(cell) for cell in cells] if table.compare else []
    return [*references, *cells]
