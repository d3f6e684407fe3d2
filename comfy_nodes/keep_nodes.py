"""MergeLoRAs, ResizeLoRA, FoldLoRA, ExtractLoRA and BlockWeightTag: files made of other files."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from ..core.config.output import check_name
from ..core.errors import ConfigError
from ..core.session import (
    Bake,
    Merge,
    RankRule,
    Tag,
    extract_file,
    fold_files,
    graphwork,
    merge_files,
    resize_file,
    tag_for,
    workbench,
)
from . import door
from .dataset_nodes import CATEGORY
from .inputs import WEIGHTS_HELP, Inputs
from .lora_nodes import PRECISIONS, opened, target
from .protocol import Host
from .values import LORA, Lora

_MOST = 4  # LoRAs in one merge
_LARGEST_RANK = 1024
_STRENGTH = {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05}
_CHECKPOINTS = "*.safetensors"


def _name(default: str) -> Inputs:
    hint = "Of the new file, without folders. Where one of that name is there, a number is added."
    return {"name": ("STRING", {"default": default, "tooltip": hint})}


def _rank(default: int, hint: str, least: int = 1) -> Inputs:
    limits = {"default": default, "min": least, "max": _LARGEST_RANK}
    return {"rank": ("INT", {**limits, "tooltip": hint})}


def _precision() -> Inputs:
    return {"precision": (list(PRECISIONS), {"default": "fp16", "tooltip": "Of the file."})}


class MergeLoRAs:
    """One plain LoRA that draws what several draw together."""

    RETURN_TYPES = (LORA, "STRING")
    RETURN_NAMES = ("lora", "path")
    FUNCTION = "merge"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Writes one LoRA that draws at strength 1 what up to four draw together, each with its own "
        "strength and block weights."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of links and widgets."""
        hint = "0 puts the ranks side by side, which is exact; else the best of this rank."
        required: Inputs = {**_name("my_lora_merged"), **_rank(0, hint, 0), **_precision()}
        optional: Inputs = {}
        for number in range(1, _MOST + 1):
            place = required if number <= 2 else optional
            place |= {
                f"lora_{number}": (LORA, {"tooltip": "From TrainLoRA or LoadLoRAForTest."}),
                f"strength_{number}": ("FLOAT", {**_STRENGTH, "tooltip": "Factor of this LoRA."}),
                f"block_weights_{number}": ("STRING", {"default": "ALL", "tooltip": WEIGHTS_HELP}),
            }
        hidden = {"unique_id": "UNIQUE_ID"}
        return {"required": required, "optional": optional, "hidden": hidden}

    def merge(
        self, name: str, rank: int, precision: str, unique_id: str | None = None, **given: Any
    ) -> tuple[Lora, str]:
        """Write the merged file and open it. Raises ConfigError and FileError."""
        host = door.host()
        merges = [
            _merge(
                given[f"lora_{number}"],
                given.get(f"strength_{number}", 1.0),
                given.get(f"block_weights_{number}", "ALL"),
            )
            for number in range(1, _MOST + 1)
            if given.get(f"lora_{number}") is not None
        ]
        path = graphwork.free_path(target(host, name))
        return opened(host, unique_id, merge_files(merges, path, rank=rank, precision=precision))


class ResizeLoRA:
    """A LoRA of a lower rank, by the singular values of each layer."""

    RETURN_TYPES = (LORA, "STRING")
    RETURN_NAMES = ("lora", "path")
    FUNCTION = "resize"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Writes a smaller LoRA: each layer keeps the strongest parts of its change, as many as the "
        "percentage needs and the rank allows."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of links and widgets."""
        hint = "Percent of each layer's change (norm) to keep; 100 keeps all that the rank allows."
        keep = {"default": 95.0, "min": 1.0, "max": 100.0, "step": 0.5, "tooltip": hint}
        return {
            "required": {
                "lora": (LORA, {"tooltip": "From TrainLoRA or LoadLoRAForTest."}),
                **_name("my_lora_resized"),
                **_rank(16, "The largest that a layer may have."),
                "keep_percent": ("FLOAT", keep),
                **_precision(),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def resize(
        self,
        lora: Lora,
        name: str,
        rank: int,
        keep_percent: float,
        precision: str,
        unique_id: str | None = None,
    ) -> tuple[Lora, str]:
        """Write the resized file and open it. Raises ConfigError and FileError."""
        host = door.host()
        rule = (
            RankRule(limit=rank)
            if keep_percent == 100
            else RankRule(kind="frobenius", value=keep_percent / 100, limit=rank)
        )
        path = graphwork.free_path(target(host, name))
        return opened(host, unique_id, resize_file(lora.path, rule, path, precision=precision))


class FoldLoRA:
    """A checkpoint with a LoRA in it."""

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("path",)
    FUNCTION = "fold"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Writes a new checkpoint beside the chosen one with the LoRA in it, at these strengths. "
        "Sums are computed in fp32. Press R to refresh the lists of the loaders."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of links and widgets."""
        return {
            "required": {
                "lora": (LORA, {"tooltip": "From TrainLoRA or LoadLoRAForTest."}),
                **_checkpoint("checkpoint", "It stays as it is."),
                **_name("my_checkpoint"),
                "strength": ("FLOAT", {**_STRENGTH, "tooltip": "Factor of the LoRA."}),
                "block_weights": ("STRING", {"default": "ALL", "tooltip": WEIGHTS_HELP}),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def fold(
        self,
        lora: Lora,
        checkpoint: str,
        name: str,
        strength: float,
        block_weights: str,
        unique_id: str | None = None,
    ) -> dict[str, Any]:
        """Write the checkpoint. Raises ConfigError and FileError."""
        host = door.host()
        source = _checkpoint_path(host, checkpoint)
        check_name("name", name)
        path = graphwork.free_path(source.with_name(f"{name}.safetensors"))
        merge = _merge(lora, strength, block_weights)
        made = fold_files(str(source), [merge], path)
        text = f"{made.path.name}, sha256 {made.sha256}"
        host.progress(unique_id).say(text)
        return {"ui": {"text": [text]}, "result": (str(made.path),)}


class ExtractLoRA:
    """The LoRA that turns one checkpoint into another."""

    RETURN_TYPES = (LORA, "STRING")
    RETURN_NAMES = ("lora", "path")
    FUNCTION = "extract"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = "Writes the LoRA that turns one checkpoint into another, as far as its rank goes."

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of the widgets."""
        return {
            "required": {
                **_checkpoint("tuned", "What the LoRA should draw."),
                **_checkpoint("base", "What it will be used on."),
                **_name("my_lora_extracted"),
                **_rank(32, "More keeps more, in a larger file."),
                **_precision(),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def extract(
        self,
        tuned: str,
        base: str,
        name: str,
        rank: int,
        precision: str,
        unique_id: str | None = None,
    ) -> tuple[Lora, str]:
        """Write the file and open it. Raises ConfigError and FileError."""
        host = door.host()
        places = [str(_checkpoint_path(host, chosen)) for chosen in (tuned, base)]
        path = graphwork.free_path(target(host, name))
        rule = RankRule(limit=rank)
        made = extract_file(places[0], places[1], path, rule, precision=precision)
        return opened(host, unique_id, made)


class BlockWeightTag:
    """What calls a LoRA with block weights in a prompt, for other programs."""

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("tag",)
    FUNCTION = "write"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Writes a LoRA with its strength and block weights as text: for lora-block-weight in the "
        "WebUI and Forge, in its old form, or the vector of the Inspire pack's node."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of links and widgets."""
        dialects = list(get_args(workbench.Dialect))
        return {
            "required": {
                "lora": (LORA, {"tooltip": "From TrainLoRA or LoadLoRAForTest."}),
                "block_weights": ("STRING", {"default": "ALL", "tooltip": WEIGHTS_HELP}),
                "strength": ("FLOAT", {**_STRENGTH, "tooltip": "Factor of the LoRA."}),
                "dialect": (dialects, {"default": dialects[0], "tooltip": "Of which program."}),
            },
        }

    def write(
        self, lora: Lora, block_weights: str, strength: float, dialect: workbench.Dialect
    ) -> dict[str, Any]:
        """Write the tag. Raises ConfigError for what the dialect can't say."""
        weights, _, elements = block_weights.partition(";")
        tag = Tag(
            name=lora.path.stem,
            unet=strength,
            text_encoder=strength,
            weights=weights.strip(),
            elements=elements.strip(),
        )
        text = tag_for(lora.path, tag, dialect)
        return {"ui": {"text": [text]}, "result": (text,)}


def _merge(lora: Lora, strength: float, weights: str) -> Merge:
    bake = Bake(weights=weights, unet=strength, text_encoder=strength)
    return Merge(path=lora.path, bake=bake)


def _checkpoint(name: str, hint: str) -> Inputs:
    names = list(_checkpoints(door.host()))
    return {name: (names, {"tooltip": f"From ComfyUI's checkpoint folders. {hint}"})}


def _checkpoints(host: Host) -> dict[str, Path]:
    """The safetensors files of ComfyUI's checkpoint folders, by their places below these."""
    found: dict[str, Path] = {}
    for folder in host.model_folders("checkpoints"):
        for path in sorted(folder.rglob(_CHECKPOINTS)):
            found.setdefault(path.relative_to(folder).as_posix(), path)
    return found


def _checkpoint_path(host: Host, name: str) -> Path:
    path = _checkpoints(host).get(name)
    if path is None:
        raise ConfigError(
            f"there is no checkpoint {name!r} in ComfyUI's folders; press R and choose one"
        )
    return path
