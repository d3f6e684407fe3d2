"""LoadDataset and PrepareDataset: a folder of pictures, looked at before anything is trained."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..core.config import DatasetConfig, Recipe, TrainingConfig, from_mapping
from ..core.session import workbench
from . import door
from .inputs import Inputs, section_places, setting_inputs, values_of
from .places import dataset_folder, subfolders
from .protocol import Host
from .showing import shown_images
from .values import DATASET, Dataset

CATEGORY = "LoRA Loop"
_PLACES = section_places("dataset", skipped=("folder",))
_PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".avif", ".txt", ".json"})


class LoadDataset:
    """Reads a folder of pictures and captions, and shows what it will train as."""

    RETURN_TYPES = (DATASET, "IMAGE", "STRING")
    RETURN_NAMES = ("dataset", "sheet", "report")
    FUNCTION = "load"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Reads a folder of pictures and captions and shows what it will train as: buckets, crops, "
        "captions, steps. Sub-folders named like 10_name give the repeats."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of the widgets."""
        own: Inputs = {
            "folder": (
                "STRING",
                {
                    "default": "",
                    "tooltip": "Folder below ComfyUI's input folder, or an absolute path below one "
                    "of the allowed roots.",
                    "lora_loop_folders": subfolders(door.host().folder("input")),
                },
            ),
        }
        return {"required": {**own, **setting_inputs(_PLACES)}}

    @classmethod
    def IS_CHANGED(cls, folder: str, **_settings: Any) -> str:  # noqa: N802 - ComfyUI's name
        """Changes with names, sizes and times of the folder's files, not with every queue."""
        return folder_state(Path(dataset_folder(door.host(), folder)))

    def load(self, folder: str, **settings: Any) -> dict[str, Any]:
        """Read the folder. Raises DatasetError where there is nothing to train on."""
        host = door.host()
        values = values_of(_PLACES, settings).get("dataset", {})
        path = dataset_folder(host, folder)
        config = from_mapping(DatasetConfig, {**values, "folder": path}, "dataset")
        report = looked_at(host, config)
        images = shown_images(host, [report.sheet], "dataset")
        return {
            "ui": {"images": images, "lora_loop_report": [report.text]},
            "result": (Dataset(config), image_tensor([report.sheet]), report.text),
        }


class PrepareDataset:
    """Changes how a dataset is laid out, without a second reading of the widgets upstream."""

    RETURN_TYPES = (DATASET, "IMAGE", "STRING")
    RETURN_NAMES = ("dataset", "sheet", "report")
    FUNCTION = "prepare"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Lays a dataset out for another resolution or other buckets, and shows the new crops and "
        "steps. The pictures themselves are not touched."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of the widgets."""
        places = [place for place in _PLACES if place[1] != "caption_extension"]
        return {
            "required": {
                "dataset": (DATASET, {"tooltip": "From LoadDataset or CaptionDataset."}),
                **setting_inputs(places),
            },
        }

    def prepare(self, dataset: Dataset, **settings: Any) -> tuple[Dataset, torch.Tensor, str]:
        """Lay the dataset out anew."""
        values = values_of(_PLACES, settings).get("dataset", {})
        config = replace(dataset.config, **values)
        report = looked_at(door.host(), config)
        return replace(dataset, config=config), image_tensor([report.sheet]), report.text


def looked_at(host: Host, config: DatasetConfig) -> Any:
    """Read a dataset and lay it out; a pressed Cancel is handed on."""
    data = workbench.read_dataset(config, stop=host.is_cancelled)
    host.raise_if_cancelled()
    if data is None:
        raise RuntimeError("the dataset was not read, and nobody had cancelled it")
    recipe = Recipe(dataset=config, training=TrainingConfig())
    return workbench.dataset_report(data, recipe, config.resolution or 512)


def folder_state(folder: Path) -> str:
    """A hash of names, sizes and times of the pictures and captions below a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in _PICTURES and path.is_file():
            state = path.stat()
            digest.update(f"{path}|{state.st_size}|{state.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def image_tensor(pictures: list[Image.Image]) -> torch.Tensor:
    """Pictures of one size as ComfyUI's IMAGE: (N, H, W, 3) in [0, 1], fp32."""
    arrays = [np.asarray(picture.convert("RGB"), np.float32) / 255 for picture in pictures]
    return torch.from_numpy(np.stack(arrays))
