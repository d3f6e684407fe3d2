"""TrainLoRA: a training on the MODEL, CLIP and VAE that the graph holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, get_args

from ..core.config import BaseConfig, MemoryConfig, Recipe, from_mapping, to_mapping
from ..core.errors import CheckpointError
from ..core.session import (
    BaseModel,
    Plan,
    Start,
    Strength,
    Trained,
    adopt,
    graphwork,
    has_state,
    make_plan,
    network_tensors,
    run,
)
from . import door
from .dataset_nodes import CATEGORY, image_tensor
from .inputs import setting_inputs, values_of
from .lora_files import read_lora
from .option_nodes import TRAIN_PLACES
from .places import own_folder
from .protocol import Facts, Graph, Host, Patches, Source
from .samples import Painter
from .training_display import Display, loss_picture
from .values import DATASET, LORA, OPTIONS, Dataset, Lora, Options, Values

_KEY_DIGITS = 8
STARTS = ("resume", "restart")


class TrainLoRA:
    """Trains on the graph's own model; what it was, is afterwards what it is."""

    RETURN_TYPES = (LORA, "MODEL", "CLIP", "IMAGE", "STRING")
    RETURN_NAMES = ("lora", "model", "clip", "loss plot", "report")
    FUNCTION = "train"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Trains a LoRA on the MODEL, CLIP and VAE of the graph, without a second copy of their "
        "weights. Cancel keeps what was trained; queue again to go on. The same settings on the "
        "same pictures are never trained twice."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of links and widgets."""
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "Stable Diffusion 1.x, 2.x or XL."}),
                "clip": ("CLIP", {"tooltip": "Of the same checkpoint."}),
                "vae": ("VAE", {"tooltip": "Of the same checkpoint, or one that fits it."}),
                "dataset": (DATASET, {"tooltip": "From LoadDataset or CaptionDataset."}),
                **setting_inputs(TRAIN_PLACES),
                "start": (
                    list(STARTS),
                    {
                        "default": "resume",
                        "tooltip": "resume goes on with an interrupted training of exactly these "
                        "settings, and takes a finished one from its file. restart trains anew.",
                    },
                ),
                "incoming_patches": (
                    list(get_args(Patches)),
                    {
                        "default": "part of the base",
                        "tooltip": "LoRAs that the incoming MODEL and CLIP carry: trained on top "
                        "of, or left out while training.",
                    },
                ),
            },
            "optional": {
                "options": (OPTIONS, {"tooltip": "More settings, from the options nodes."})
            },
            "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"},
        }

    def train(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        dataset: Dataset,
        start: str,
        incoming_patches: Patches,
        options: Options | None = None,
        unique_id: str | None = None,
        prompt: Mapping[str, Any] | None = None,
        **widgets: Any,
    ) -> dict[str, Any]:
        """Train, or take the finished training of the same settings, and patch MODEL and CLIP."""
        host = door.host()
        graph = checked_graph(Graph(model, clip, vae))
        facts = host.facts(graph)
        recipe = recipe_of(host, dataset, options or Options(), values_of(TRAIN_PLACES, widgets))
        recipe = replace(recipe, base=base_config(facts))
        source = Source(incoming_patches, checkpoint_name(prompt or {}, unique_id))
        display = Display(host.progress(unique_id))
        job = GraphJob(host, graph, source, recipe, display)
        lora = job.lora(restart=(options.start if options and options.start else start) != "resume")
        host.raise_if_cancelled()
        patched = host.patched(graph, lora.tensors, Strength().of)
        report = display.report(lora, patches=facts.patches, source=source)
        plot = loss_picture(display.losses, display.rates)
        display.finished(plot, report)
        return {
            "ui": {"lora_loop_report": [report]},
            "result": (lora, patched.model, patched.clip, image_tensor([plot]), report),
        }


class GraphJob:
    """One training of a recipe on a graph's model."""

    def __init__(
        self, host: Host, graph: Graph, source: Source, recipe: Recipe, display: Display
    ) -> None:
        self._host, self._graph, self._source = host, graph, source
        self._recipe, self._display = recipe, display

    def lora(self, *, restart: bool) -> Lora:
        """The trained network; a cancelled training leaves its files and raises nothing."""
        memory = self._recipe.memory
        with (
            self._host.borrow(self._graph, self._source) as (live, device),
            adopt(live, self._recipe.base, memory, device) as base,
        ):
            plan = make_plan(self._recipe, on_event=self._display, base=base)
            key = graphwork.training_key(plan, base)[:_KEY_DIGITS]
            there = sorted(plan.path.parent.glob(f"*-{key}.safetensors"))
            if there and not restart:
                self._display.taken_from(there[0])
                return replace(read_lora(there[0]), name=self._recipe.output.name)
            plan = graphwork.named(plan, f"{plan.recipe.output.name}-{key}")
            if plan.path.exists():
                plan = graphwork.named(plan, graphwork.free_path(plan.path).stem)
            return self._trained(plan, base, restart=restart)

    def _trained(self, plan: Plan, base: BaseModel, *, restart: bool) -> Lora:
        keep_recipe(plan)
        start: Start = "new"
        if has_state(plan.path):
            start = "restart" if restart else "resume"
        painter = Painter(self._host, self._graph, base, plan)
        trained = run(
            plan,
            base,
            start=start,
            on_event=self._display,
            stop=lambda: painter.cancelled or self._host.is_cancelled(),
            paint=painter,
        )
        self._display.trained(trained)
        if trained.stopped:
            raise_cancelled(self._host, painter)
        return self._lora_of(trained, base)

    def _lora_of(self, trained: Trained, base: BaseModel) -> Lora:
        if trained.path is None:
            raise RuntimeError("a finished training has left no file")
        return replace(
            read_lora(trained.path),
            name=self._recipe.output.name,
            tensors=network_tensors(trained.network, base.family.key),
        )


def raise_cancelled(host: Host, painter: Painter) -> None:
    """Hand the Cancel that has stopped a training on to ComfyUI: everything is saved by now."""
    host.raise_if_cancelled()
    if painter.error is not None:
        raise painter.error


def checked_graph(graph: Graph) -> Graph:
    """Raise CheckpointError for a MODEL, CLIP or VAE that a loader could not give."""
    for name in ("model", "clip", "vae"):
        if getattr(graph, name) is None:
            raise CheckpointError(
                f"{name.upper()} is empty: the checkpoint holds none; connect a loader that has "
                f"one for this model to `{name}`"
            )
    return graph


def base_config(facts: Facts) -> BaseConfig:
    """The recipe's base as the graph has it; the weights come from there too."""
    return BaseConfig(
        clip_skip=facts.clip_skip,
        prediction=facts.prediction,
        zero_terminal_snr="yes" if facts.zero_terminal_snr else "no",
    )


@contextmanager
def borrowed(host: Host, graph: Graph) -> Iterator[BaseModel]:
    """The graph's model as a base model, patches left out, for the length of a with block."""
    checked = checked_graph(graph)
    config = base_config(host.facts(checked))
    with (
        host.borrow(checked, Source("left out")) as (live, device),
        adopt(live, config, MemoryConfig(), device) as base,
    ):
        yield base


def recipe_of(host: Host, dataset: Dataset, options: Options, widgets: Values) -> Recipe:
    """The whole recipe: the node's widgets, over them what the options say, and the host's folder.

    Raises ConfigError that names the setting which is wrong.
    """
    values = Options(widgets).with_values(options.values).values
    output = {
        **values.get("output", {}),
        "folder": str(own_folder(host)),
        "precision": "fp32",  # exactly what was trained; SaveLoRA writes smaller ones
        "trigger": dataset.trigger,
    }
    mapping = {**values, "output": output, "dataset": to_mapping(dataset.config)}
    mapping.pop("base", None)
    return from_mapping(Recipe, mapping)


def keep_recipe(plan: Plan) -> None:
    """Write the recipe beside the network, for ResumeTraining."""
    plan.recipe.save(plan.path.with_suffix(".json"))


def checkpoint_name(prompt: Mapping[str, Any], node: str | None) -> str:
    """The file that the graph's MODEL was loaded from, found along its links; "" if none is.

    A MODEL does not know its file, but the graph that runs does.
    """
    seen: set[str] = set()
    while node is not None and node in prompt and node not in seen:
        seen.add(node)
        inputs = prompt[node].get("inputs", {})
        found = inputs.get("ckpt_name") or inputs.get("unet_name")
        if isinstance(found, str):
            return found
        link = inputs.get("model")
        node = str(link[0]) if isinstance(link, list) and link else None
    return ""
