"""BlockWeightPreview and ApplyBlockWeights: what each block of a LoRA does, and the choice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..core.config import PreviewConfig
from ..core.errors import ConfigError
from ..core.session import AXES as AXIS_WORDS
from ..core.session import (
    Axis,
    BlockWeights,
    DrawSettings,
    GridRequest,
    Prompt,
    Strength,
    graphwork,
)
from . import door
from .block_drawing import CellMemory, Study, TablePainter
from .dataset_nodes import CATEGORY, image_tensor
from .inputs import CFG, SEED_LIMIT, SIDES, STEPS, Inputs, lines_of
from .protocol import Graph, Sampling
from .showing import shown_images
from .train_node import checked_graph
from .values import AXES, LORA, Axes, Lora
from .words import Language, said

_OWN_SIDE = {"sd1": 512, "sd2": 768, "sdxl": 1024}
_WEIGHTS_HELP = (
    "A preset (NOFACE, INS, ...), a vector of 17 or 26 values (SDXL: 12 or 20), or ranges as in "
    "IN04-IN08=0.5, OUT03=0."
)
_AXIS_HELP = "What changes along this axis."
_ENTRIES_HELP = (
    "Entries: numbers, seeds and blocks between commas; weights by lines or |; prompts and LoRA "
    "files by lines."
)
_STRENGTH = {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05}


def strength_inputs() -> Inputs:
    """The two strengths of a LoraLoader."""
    return {
        "strength_model": ("FLOAT", {**_STRENGTH, "tooltip": "Factor of the U-Net's part."}),
        "strength_clip": ("FLOAT", {**_STRENGTH, "tooltip": "Factor of the text encoder's part."}),
    }


class BlockWeightPreview:
    """Draws the LoRA under many block weights, side by side, with the graph's own sampler."""

    RETURN_TYPES = ("IMAGE", "MODEL", "CLIP", "STRING")
    RETURN_NAMES = ("grid", "model", "clip", "vector")
    FUNCTION = "preview"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Draws the LoRA under block weights side by side, as a KSampler would, without saving or "
        "reloading anything. MODEL and CLIP come out with the chosen weights."
    )

    def __init__(self) -> None:
        self._memory = CellMemory()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of links and widgets."""
        host = door.host()
        presets = "\n".join(PreviewConfig().presets)
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The base model, without the LoRA."}),
                "clip": ("CLIP", {"tooltip": "Of the same checkpoint."}),
                "vae": ("VAE", {"tooltip": "Of the same checkpoint."}),
                "lora": (LORA, {"tooltip": "From TrainLoRA or LoadLoRAForTest."}),
                "prompts": _text("", "One row of the grid each."),
                "negative_prompt": _text("", "For all rows."),
                "presets": _text(presets, f"One column each. {_WEIGHTS_HELP}"),
                "chosen": (
                    "STRING",
                    {
                        "default": "ALL",
                        "tooltip": "The weights of the MODEL and CLIP that come out; the last "
                        f"column. The sliders write here. {_WEIGHTS_HELP}",
                    },
                ),
                **strength_inputs(),
                "preview_seed": (
                    "INT",
                    {
                        "default": 1,
                        "min": 0,
                        "max": SEED_LIMIT,
                        "tooltip": "Of the first row; each further row adds 1. R and U among the "
                        "weights are drawn from it too.",
                    },
                ),
                "steps": STEPS,
                "cfg": CFG,
                "sampler_name": (
                    list(host.sampler_names()),
                    {"default": "dpmpp_2m", "tooltip": "As in a KSampler."},
                ),
                "scheduler": (
                    list(host.scheduler_names()),
                    {"default": "karras", "tooltip": "As in a KSampler."},
                ),
                **SIDES,
            },
            "optional": {
                "axes": (AXES, {"tooltip": "From GridAxes: any axes in place of the presets."}),
                "language": (["en", "zh"], {"default": "en", "tooltip": "Of the sheet's words."}),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def preview(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        lora: Lora,
        prompts: str,
        negative_prompt: str,
        presets: str,
        chosen: str,
        strength_model: float,
        strength_clip: float,
        axes: Axes | None = None,
        language: Language = "en",
        unique_id: str | None = None,
        **sampling: Any,
    ) -> dict[str, Any]:
        """Draw what is not known yet, lay out the grid, and patch MODEL and CLIP."""
        host = door.host()
        graph = checked_graph(Graph(model, clip, vae))
        family = host.family(model)
        study = Study(
            graph=graph,
            lora=lora,
            sampling=sampling_of(family, **sampling),
            strength_model=strength_model,
            strength_clip=strength_clip,
        )
        seed = study.sampling.seed
        picked = BlockWeights.parse(chosen, family, seed=seed)
        rows = prompt_rows(prompts, negative_prompt, lora)
        notes: list[str] = []
        if axes is None:
            columns, left_out = columns_of(presets, picked, family, seed)
            if left_out:
                names = ", ".join(left_out)
                notes.append(said("left out", language, names=names, family=family))
            settings = DrawSettings(seed=seed)
            request = GridRequest(
                prompts=rows, presets=tuple(columns), settings=settings, language=language
            )
        else:
            request = axes.request(rows, chosen, seed, language)
        table = request.table(family)
        progress = host.progress(unique_id)
        own = [cell.weights for _, cell in table.places() if not cell.network]
        notes += findings_of([*own, picked], lora)
        if notes:
            progress.say("\n".join(notes))
        painter = TablePainter(host, study, self._memory)
        painter.paint(table, progress.bar)
        title = said("title", language, lora=lora.name)
        sheet = graphwork.table_sheet(table, painter.picture, title, study.facts(language))
        vector = picked.text()
        progress.bar(1, 1, sheet)
        progress.send("blocks", {"family": family, "vector": vector, "blocks": dict(picked.ratios)})
        strength = Strength(unet=strength_model, text_encoder=strength_clip, block_weights=picked)
        patched = host.patched(graph, lora.tensors, strength.of)
        return {
            "ui": {
                "images": shown_images(host, [sheet], "blocks"),
                "lora_loop_family": [family],
                "lora_loop_vector": [vector],
            },
            "result": (image_tensor([sheet]), patched.model, patched.clip, vector),
        }


class ApplyBlockWeights:
    """MODEL and CLIP with a LoRA, each block of it as strongly as wanted."""

    RETURN_TYPES = ("MODEL", "CLIP")
    RETURN_NAMES = ("model", "clip")
    FUNCTION = "apply"
    CATEGORY = CATEGORY
    DESCRIPTION = "A LoraLoader with block weights, for a LoRA in memory."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of links and widgets."""
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "Without the LoRA."}),
                "lora": (LORA, {"tooltip": "From TrainLoRA or LoadLoRAForTest."}),
                "block_weights": ("STRING", {"default": "ALL", "tooltip": _WEIGHTS_HELP}),
                **strength_inputs(),
            },
            "optional": {
                "clip": ("CLIP", {"tooltip": "Without the LoRA; may be left out."}),
                "preview_seed": (
                    "INT",
                    {
                        "default": 1,
                        "min": 0,
                        "max": SEED_LIMIT,
                        "tooltip": "As in BlockWeightPreview: R and U are drawn from it.",
                    },
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def apply(
        self,
        model: Any,
        lora: Lora,
        block_weights: str,
        strength_model: float,
        strength_clip: float,
        clip: Any = None,
        preview_seed: int = 1,
        unique_id: str | None = None,
    ) -> tuple[Any, Any]:
        """Patch clones of MODEL and CLIP. Raises ConfigError and FileError."""
        host = door.host()
        weights = BlockWeights.parse(block_weights, host.family(model), seed=preview_seed)
        for text in findings_of([weights], lora):
            host.progress(unique_id).say(text)
        strength = Strength(unet=strength_model, text_encoder=strength_clip, block_weights=weights)
        patched = host.patched(Graph(model, clip, None), lora.tensors, strength.of)
        return patched.model, patched.clip


def sampling_of(
    family: str,
    *,
    preview_seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    width: int,
    height: int,
) -> Sampling:
    """The node's widgets; a side of 0 is the family's own."""
    own = _OWN_SIDE[family]
    return Sampling(
        seed=preview_seed,
        steps=steps,
        cfg=cfg,
        sampler=sampler_name,
        scheduler=scheduler,
        width=width or own,
        height=height or own,
    )


def prompt_rows(prompts: str, negative: str, lora: Lora) -> tuple[Prompt, ...]:
    """A row for each line; without one, the LoRA's trigger. ConfigError where there is neither."""
    lines = lines_of(prompts) or ([lora.trigger] if lora.trigger else [])
    if not lines:
        raise ConfigError("prompts is empty; write one on each line, such as the trigger word")
    return tuple(Prompt(line, negative) for line in lines)


def columns_of(
    presets: str, picked: BlockWeights, family: str, seed: int
) -> tuple[list[BlockWeights], list[str]]:
    """The grid's columns: the presets that this family has, then the chosen weights.

    And the presets that it does not have; some of them stand in the widget at first.
    """
    foreign = set(graphwork.preset_names("sd1")) - set(graphwork.preset_names(family))
    lines = lines_of(presets)
    known = [line for line in lines if line not in foreign]
    columns = [BlockWeights.parse(line, family, seed=seed) for line in known]
    left_out = [line for line in lines if line in foreign]
    return columns if picked in columns else [*columns, picked], left_out


def findings_of(given: Iterable[BlockWeights], lora: Lora) -> list[str]:
    """What these weights do to a LoRA that nobody may have meant, each once."""
    blocks = lora.blocks()
    found = [weights.finding(blocks) for weights in given]
    return list(dict.fromkeys(finding.text for finding in found if finding))


def _text(default: str, tooltip: str) -> tuple[str, dict[str, Any]]:
    return "STRING", {"default": default, "multiline": True, "tooltip": tooltip}


class GridAxes:
    """Three axes for BlockWeightPreview."""

    RETURN_TYPES = (AXES,)
    RETURN_NAMES = ("axes",)
    FUNCTION = "gather"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Axes for BlockWeightPreview: x goes across, y down, z from page to page. What no axis "
        "changes is as the preview's own widgets say."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of the widgets."""
        kinds = list(AXIS_WORDS)
        required: Inputs = {}
        for axis, kind in (("x", "blocks"), ("y", "values"), ("z", "none")):
            required[f"{axis}_axis"] = (kinds, {"default": kind, "tooltip": _AXIS_HELP})
            default = {"blocks": "IN04-IN08, M00, OUT03-OUT05", "values": "0, 0.5, 1"}
            required[axis] = _text(default.get(kind, ""), _ENTRIES_HELP)
        required["value"] = (
            "FLOAT",
            {**_STRENGTH, "default": 0.0, "tooltip": "Of a blocks axis without a values axis."},
        )
        required["compare"] = (
            "BOOLEAN",
            {"default": True, "tooltip": "Also show how far each cell is from the base model."},
        )
        return {"required": required}

    def gather(
        self,
        x_axis: Any,
        x: str,
        y_axis: Any,
        y: str,
        z_axis: Any,
        z: str,
        value: float,
        compare: bool,
    ) -> tuple[Axes]:
        """Read the entries. Raises ConfigError for an axis without any."""
        texts = {"x": (x_axis, x), "y": (y_axis, y), "z": (z_axis, z)}
        read = {name: Axis.of(kind, text) for name, (kind, text) in texts.items()}
        return (Axes(**read, value=value, compare=compare),)
