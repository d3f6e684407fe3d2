"""AnalyzeBlocksInPictures and SuggestBlockWeights: what blocks do to pictures, and what follows."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from ..core.session import DrawSettings, Prompt, open_network, study
from . import door
from .block_nodes import prompt_rows
from .dataset_nodes import CATEGORY, image_tensor
from .inputs import CFG, SEED_LIMIT, SIDES, STEPS, Inputs
from .protocol import Graph
from .showing import shown_images
from .train_node import borrowed
from .training_display import Moved
from .values import LORA, Lora
from .words import Language

_SHARE = {"min": 0.0, "max": 100.0, "step": 1.0}
_MASK_HELP = "White where the part is that matters, such as the face."


def _inputs(**own: Any) -> Inputs:
    """Links and widgets of both nodes, `own` before how it is drawn."""
    return {
        "model": ("MODEL", {"tooltip": "The base model, without the LoRA."}),
        "clip": ("CLIP", {"tooltip": "Of the same checkpoint."}),
        "vae": ("VAE", {"tooltip": "Of the same checkpoint."}),
        "lora": (LORA, {"tooltip": "From TrainLoRA or LoadLoRAForTest."}),
        "prompts": (
            "STRING",
            {"default": "", "multiline": True, "tooltip": "One row of pictures each."},
        ),
        "negative_prompt": ("STRING", {"default": "", "tooltip": "For all rows."}),
        **own,
        "preview_seed": (
            "INT",
            {"default": 1, "min": 0, "max": SEED_LIMIT, "tooltip": "Of the first picture."},
        ),
        "steps": STEPS,
        "cfg": CFG,
        **SIDES,
        "language": (["en", "zh"], {"default": "en", "tooltip": "Of the chart's words."}),
    }


class AnalyzeBlocksInPictures:
    """Draws a picture for each block, with that block at another value."""

    RETURN_TYPES = ("IMAGE", "IMAGE", "STRING")
    RETURN_NAMES = ("chart", "grid", "table")
    FUNCTION = "analyze"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Draws one picture for each block of the LoRA, with that block alone at another value, and "
        "charts how much of the picture it changes; with a mask, inside and outside of it."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of links and widgets."""
        value = {
            "default": 0.0,
            "min": -2.0,
            "max": 2.0,
            "step": 0.05,
            "tooltip": "Of the block that is looked at; all others are at 1.",
        }
        return {
            "required": _inputs(value=("FLOAT", value)),
            "optional": {"mask": ("MASK", {"tooltip": _MASK_HELP})},
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def analyze(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        lora: Lora,
        prompts: str,
        negative_prompt: str,
        value: float,
        language: Language,
        mask: Any = None,
        unique_id: str | None = None,
        **drawing: Any,
    ) -> dict[str, Any]:
        """Draw, compare and chart; a pressed Cancel is handed on."""
        host = door.host()
        request = study.AnalysisRequest(
            prompts=_rows(prompts, negative_prompt, lora),
            value=value,
            settings=_settings(**drawing),
            network_name=lora.name,
            language=language,
        )
        with borrowed(host, Graph(model, clip, vae)) as base:
            found = study.analyze_blocks(
                base,
                open_network(base, lora.path),
                request,
                _part(mask),
                on_event=Moved(host.progress(unique_id), "drawing every block"),
                stop=host.is_cancelled,
            )
        host.raise_if_cancelled()
        chart = study.analysis_chart(found, language)
        text = study.analysis_text(found, language)
        return {
            "ui": {
                "images": shown_images(host, [chart, found.grid.image], "analysis"),
                "lora_loop_report": [text],
            },
            "result": (image_tensor([chart]), image_tensor([found.grid.image]), text),
        }


class SuggestBlockWeights:
    """Searches block weights that keep the style and give up a part, and proves them."""

    RETURN_TYPES = ("STRING", "IMAGE", "STRING")
    RETURN_NAMES = ("block_weights", "grid", "report")
    FUNCTION = "suggest"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Searches block weights that keep most of what the LoRA changes outside of a mask and "
        "little of what it changes inside, such as the style without the face; then draws the "
        "proof with other seeds."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of links and widgets."""
        outside = {**_SHARE, "default": 95.0, "tooltip": "Percent of the change to keep there."}
        inside = {**_SHARE, "default": 40.0, "tooltip": "Percent of the change at most there."}
        seeds = {
            "default": 2,
            "min": 1,
            "max": 16,
            "tooltip": "Pictures of each prompt to search on; as many others prove it.",
        }
        return {
            "required": {
                **_inputs(
                    keep_outside=("FLOAT", outside),
                    keep_inside=("FLOAT", inside),
                    seeds=("INT", seeds),
                ),
                "mask": ("MASK", {"tooltip": _MASK_HELP}),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def suggest(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        lora: Lora,
        prompts: str,
        negative_prompt: str,
        keep_outside: float,
        keep_inside: float,
        seeds: int,
        language: Language,
        mask: Any,
        unique_id: str | None = None,
        **drawing: Any,
    ) -> dict[str, Any]:
        """Search, draw the proof and say what it shows; a pressed Cancel is handed on."""
        host = door.host()
        settings = _settings(**drawing)
        request = study.SuggestionRequest(
            prompts=_rows(prompts, negative_prompt, lora),
            inside=keep_inside / 100,
            outside=keep_outside / 100,
            seeds=tuple(range(settings.seed, settings.seed + seeds)),
            settings=settings,
            network_name=lora.name,
            language=language,
        )
        with borrowed(host, Graph(model, clip, vae)) as base:
            found = study.suggest_weights(
                base,
                open_network(base, lora.path),
                request,
                _part(mask),
                on_event=Moved(host.progress(unique_id), "searching block weights"),
                stop=host.is_cancelled,
            )
        host.raise_if_cancelled()
        if found is None:
            raise RuntimeError("the search stopped, and nobody had cancelled it")
        text, proof = found.text(language), found.grid.image
        return {
            "ui": {"images": shown_images(host, [proof], "suggested"), "lora_loop_report": [text]},
            "result": (found.weights.text(), image_tensor([proof]), text),
        }


def _rows(prompts: str, negative: str, lora: Lora) -> tuple[Prompt, ...]:
    return tuple(prompt_rows(prompts, negative, lora))


def _settings(
    *, preview_seed: int, steps: int, cfg: float, width: int, height: int
) -> DrawSettings:
    return DrawSettings(seed=preview_seed, steps=steps, guidance=cfg, width=width, height=height)


def _part(mask: Any) -> study.Part:
    """A MASK, (B, height, width) or without B, 0 to 1, as the part; the first where B > 1."""
    if mask is None:
        return study.Part()
    levels = np.asarray(mask.detach().cpu().float())
    first = levels.reshape(-1, *levels.shape[-2:])[0]
    return study.Part(mask=Image.fromarray((first * 255).round().clip(0, 255).astype("uint8")))
