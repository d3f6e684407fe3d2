"""CaptionDataset: a model or rules write the captions of a dataset, or show what they would."""

from __future__ import annotations

from typing import Any

from ..core.config import from_mapping
from ..core.config.caption import CaptionConfig
from ..core.session import caption, open_captioner
from . import door
from .dataset_nodes import CATEGORY, Dataset
from .inputs import Inputs, section_places, setting_inputs, values_of
from .option_nodes import CATEGORY as OPTIONS_CATEGORY
from .option_nodes import Places
from .training_display import Moved
from .values import DATASET, OPTIONS, Options

_CAPTIONER_BYTES = 3 << 30  # BLIP-large in fp32, or the largest WD14 tagger, with what they compute

MODEL_FOLDERS = ("captioners", "wd14_tagger", "blip", "LLM", "clip_interrogator")
"""Kinds of ComfyUI's model folders in which captioners of other nodes lie too."""

_MODELS: Places = (*section_places("tagger"), *section_places("blip"))
_PLACES: Places = (
    *section_places("caption", skipped=("caption_extension", "recursive")),
    *section_places("rules"),
)


class CaptionDataset:
    """Writes captions beside the pictures; every change can be undone."""

    RETURN_TYPES = (DATASET, "STRING")
    RETURN_NAMES = ("dataset", "report")
    FUNCTION = "write"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Writes captions with a tagger or BLIP, or changes them by rules alone. A dry run only "
        "shows what would change. Nothing is downloaded unless you say so."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of links and widgets."""
        optional: Inputs = {
            "options": (OPTIONS, {"tooltip": "Of the models, from CaptionerOptions."})
        }
        return {
            "required": {
                "dataset": (DATASET, {"tooltip": "From LoadDataset."}),
                **setting_inputs(_PLACES),
            },
            "optional": optional,
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def write(
        self,
        dataset: Dataset,
        options: Options | None = None,
        unique_id: str | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """Caption the dataset's folder; what a Cancel leaves undone is done by the next run."""
        host = door.host()
        config = caption_config(dataset, options or Options(), settings)
        folders = [path for kind in MODEL_FOLDERS for path in host.model_folders(kind)]
        progress = host.progress(unique_id)
        places = [path for path in folders if path.is_dir()] or folders[:1]
        device = None if config.captioner == "none" else host.room_for(_CAPTIONER_BYTES)
        report = caption(
            dataset.config.folder,
            config,
            open_captioner(config, places, device),
            on_event=Moved(progress, "captioning"),
            stop=host.is_cancelled,
        )
        host.raise_if_cancelled()
        lines = [report.summary(), *(f"{f.level}: {f.text}" for f in report.findings)]
        if config.dry_run:
            lines.append(report.diff())
        text = "\n".join(lines)
        progress.say(report.summary())
        captioned = Dataset(dataset.config, config.rules.trigger or dataset.trigger)
        return {"ui": {"lora_loop_report": [text]}, "result": (captioned, text)}


class CaptionerOptions:
    """Settings of the tagger and of BLIP."""

    RETURN_TYPES = (OPTIONS,)
    RETURN_NAMES = ("options",)
    FUNCTION = "gather"
    CATEGORY = OPTIONS_CATEGORY
    DESCRIPTION = "Thresholds and lengths for CaptionDataset."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of the widgets."""
        return {"required": setting_inputs(_MODELS)}

    def gather(self, **settings: Any) -> tuple[Options]:
        """The widgets' values."""
        return (Options().with_values(values_of(_MODELS, settings)),)


def caption_config(dataset: Dataset, options: Options, settings: dict[str, Any]) -> CaptionConfig:
    """The widgets and the options as settings. Raises ConfigError that names the wrong one."""
    values = Options(values_of(_PLACES, settings)).with_values(options.values).values
    groups = {name: values[name] for name in ("tagger", "blip", "rules") if name in values}
    mapping = {
        **values.get("caption", {}),
        "caption_extension": dataset.config.caption_extension,
        **groups,
    }
    return from_mapping(CaptionConfig, mapping, "caption")
