"""RecipeOptions nodes: every setting that TrainLoRA itself does not show, made from the recipe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..core.config import Text, sections
from .inputs import Inputs, section_places, setting_inputs, values_of
from .values import OPTIONS, Options

CATEGORY = "LoRA Loop/options"

Places = tuple[tuple[str, str], ...]

TRAIN_PLACES: Places = (
    ("output", "name"),
    ("network", "rank"),
    ("network", "alpha"),
    ("optimizer", "unet_lr"),
    ("optimizer", "text_encoder_lr"),
    ("training", "epochs"),
    ("training", "max_steps"),
    ("training", "batch_size"),
    ("training", "seed"),
    ("memory", "gradient_checkpointing"),
)
"""The ten settings that TrainLoRA shows itself."""

ELSEWHERE: Places = (
    ("output", "folder"),  # ComfyUI's
    ("output", "precision"),  # SaveLoRA's
    ("output", "comment"),
    ("output", "trigger"),
    ("preview", "presets"),  # BlockWeightPreview's
    ("preview", "sampler"),  # of our own samplers; a graph has ComfyUI's
    ("preview", "host_sampler"),  # the WebUI's
    ("preview", "host_scheduler"),
)
_NOT_OPTIONS = frozenset({"base", "dataset", "caption"})  # the MODEL's, LoadDataset's, ...
_GROUPS = {
    "network": "network",
    "optimizer": "optimizer",
    "lr_schedule": "schedule",
    "training": "schedule",
    "objective": "objective",
    "memory": "memory",
    "preview": "samples",
    "output": "resume",
}
TITLES = {
    "network": Text("Network options", "网络选项"),
    "optimizer": Text("Optimizer options", "优化器选项"),
    "schedule": Text("Schedule options", "学习率与批次选项"),
    "objective": Text("Objective options", "训练目标选项"),
    "memory": Text("Memory options", "显存与精度选项"),
    "samples": Text("Samples on the way", "训练途中的样图"),
    "resume": Text("Resume options", "续训选项"),
}


def groups() -> dict[str, Places]:
    """Every setting that has no other place, by the name of its options node.

    A section of the recipe that is new gets a node of its own.
    """
    taken = {*TRAIN_PLACES, *ELSEWHERE}
    found: dict[str, list[tuple[str, str]]] = {}
    for section in sections():
        if section in _NOT_OPTIONS:
            continue
        own = [place for place in section_places(section) if place not in taken]
        found.setdefault(_GROUPS.get(section, section), []).extend(own)
    return {name: tuple(places) for name, places in found.items() if places}


class OptionsNode:
    """Adds settings of one kind to those of the node before it."""

    GROUP = ""
    PLACES: Places = ()
    RETURN_TYPES = (OPTIONS,)
    RETURN_NAMES = ("options",)
    FUNCTION = "gather"
    CATEGORY = CATEGORY

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of the widgets."""
        optional: Inputs = {
            "options": (OPTIONS, {"tooltip": "Settings of other options nodes; these come on top."})
        }
        return {"required": setting_inputs(cls.PLACES), "optional": optional}

    def gather(self, options: Options | None = None, **settings: Any) -> tuple[Options]:
        """Put the widgets' values on top of the incoming ones."""
        return ((options or Options()).with_values(values_of(self.PLACES, settings)),)


def option_classes() -> Iterator[tuple[str, type[OptionsNode]]]:
    """(group, node class) for every group."""
    for group, places in groups().items():
        name = f"{group.title().replace('_', '')}Options"
        title = TITLES[group].en if group in TITLES else group.replace("_", " ").capitalize()
        yield (
            group,
            type(
                name,
                (OptionsNode,),
                {
                    "GROUP": group,
                    "PLACES": places,
                    "DESCRIPTION": f"{title} for TrainLoRA; several options nodes can be chained.",
                    "__doc__": f"{title}.",
                    "__module__": __name__,
                },
            ),
        )
