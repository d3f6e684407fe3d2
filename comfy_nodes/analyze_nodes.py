"""AnalyzeBlocks: how much each block of a LoRA changes, measured without drawing a picture."""

from __future__ import annotations

from typing import Any, Literal

from ..core.session import open_network, study, workbench
from . import door
from .dataset_nodes import CATEGORY, image_tensor
from .inputs import Inputs, lines_of
from .protocol import Graph
from .showing import shown_images
from .train_node import borrowed, checked_graph
from .training_display import Moved
from .values import DATASET, LORA, Dataset, Lora

_MOST_SAMPLES = 256


class AnalyzeBlocks:
    """Sends noisy latents through the model with each block alone, and without it."""

    RETURN_TYPES = ("IMAGE", "STRING")
    RETURN_NAMES = ("chart", "table")
    FUNCTION = "analyze"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Measures how much each block of the LoRA changes what the model predicts, and draws it "
        "as a chart. On a dataset's pictures where one is connected, else on noise and prompts."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of links and widgets."""
        optional: Inputs = {"dataset": (DATASET, {"tooltip": "Pictures to measure on."})}
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The base model, without the LoRA."}),
                "clip": ("CLIP", {"tooltip": "Of the same checkpoint."}),
                "vae": ("VAE", {"tooltip": "Of the same checkpoint."}),
                "lora": (LORA, {"tooltip": "From TrainLoRA or LoadLoRAForTest."}),
                "prompts": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "tooltip": "One a line; a dataset brings its captions.",
                    },
                ),
                "samples": (
                    "INT",
                    {
                        "default": 8,
                        "min": 1,
                        "max": _MOST_SAMPLES,
                        "tooltip": "Noisy latents to measure on; more is surer and slower.",
                    },
                ),
                "language": (["en", "zh"], {"default": "en", "tooltip": "Of the chart's words."}),
            },
            "optional": optional,
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def analyze(
        self,
        model: Any,
        clip: Any,
        vae: Any,
        lora: Lora,
        prompts: str,
        samples: int,
        language: Literal["en", "zh"],
        dataset: Dataset | None = None,
        unique_id: str | None = None,
    ) -> dict[str, Any]:
        """Measure, chart and list the blocks; a pressed Cancel is handed on."""
        host = door.host()
        graph = checked_graph(Graph(model, clip, vae))
        request = study.MeasureRequest(
            samples=samples, prompts=tuple(lines_of(prompts) or [lora.trigger])
        )
        pictures = None
        if dataset is not None:
            pictures = workbench.read_dataset(dataset.config, stop=host.is_cancelled)
        host.raise_if_cancelled()
        with borrowed(host, graph) as base:
            measures = study.measure_blocks(
                base,
                open_network(base, lora.path),
                request,
                pictures,
                on_event=Moved(host.progress(unique_id), "measuring blocks"),
                stop=host.is_cancelled,
            )
        host.raise_if_cancelled()
        if measures is None:
            raise RuntimeError("the measuring stopped, and nobody had cancelled it")
        chart = study.measures_chart(measures, lora.name, language)
        text = study.measures_text(measures, language)
        return {
            "ui": {"images": shown_images(host, [chart], "analysis"), "lora_loop_report": [text]},
            "result": (image_tensor([chart]), text),
        }
