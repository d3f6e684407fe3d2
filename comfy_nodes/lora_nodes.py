"""LoadLoRAForTest, SaveLoRA and BakeLoRA: between LORA values and files."""

from __future__ import annotations

from typing import Any

from ..core.config.output import check_name
from ..core.errors import ConfigError
from ..core.session import Bake, Baked, bake_file, graphwork
from . import door
from .dataset_nodes import CATEGORY
from .inputs import WEIGHTS_HELP
from .lora_files import read_lora
from .protocol import Host
from .values import LORA, Lora

PRECISIONS = ("fp16", "bf16", "fp32")
_NAME_HELP = (
    "Name of the file, without folders. Where one of that name is there, a number is added."
)


class LoadLoRAForTest:
    """A LoRA file as a LORA, to be looked at, weighed by block or baked."""

    RETURN_TYPES = (LORA, "STRING")
    RETURN_NAMES = ("lora", "metadata")
    FUNCTION = "load"
    CATEGORY = CATEGORY
    DESCRIPTION = (
        "Opens a LoRA file of any tool as LORA: for BlockWeightPreview, AnalyzeBlocks, BakeLoRA."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of the widgets."""
        names = list(door.host().lora_names())
        return {"required": {"file": (names, {"tooltip": "From ComfyUI's lora folders."})}}

    @classmethod
    def IS_CHANGED(cls, file: str) -> str:  # noqa: N802 - ComfyUI's name
        """Changes when the file does."""
        state = door.host().lora_path(file).stat()
        return f"{state.st_size} {state.st_mtime_ns}"

    def load(self, file: str) -> tuple[Lora, str]:
        """Open the file. Raises FileError."""
        lora = read_lora(door.host().lora_path(file))
        lines = [f"{name}: {text[:300]}" for name, text in sorted(lora.metadata.items())]
        return lora, "\n".join(lines)


class SaveLoRA:
    """Writes a LORA into ComfyUI's lora folder, where every loader finds it."""

    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("path",)
    FUNCTION = "save"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Writes the LoRA into ComfyUI's lora folder, reads it back and checks it. Nothing is "
        "overwritten. Press R to refresh the lists of the loaders."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of the widgets."""
        return {
            "required": {
                "lora": (LORA, {"tooltip": "From TrainLoRA or LoadLoRAForTest."}),
                "name": ("STRING", {"default": "my_lora", "tooltip": _NAME_HELP}),
                "precision": (
                    list(PRECISIONS),
                    {"default": "fp16", "tooltip": "fp16 is what every program loads."},
                ),
                "metadata": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Write the training's settings into the file; the recipe can be "
                        "read from it again. Off leaves only what loaders need.",
                    },
                ),
            },
            "optional": {
                "block_weights": (
                    "STRING",
                    {"default": "", "tooltip": f"Baked in. {WEIGHTS_HELP} Empty bakes nothing."},
                ),
                "trigger": (
                    "STRING",
                    {"default": "", "tooltip": "The words that call the subject."},
                ),
                "comment": ("STRING", {"default": "", "tooltip": "Any text for the metadata."}),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def save(
        self,
        lora: Lora,
        name: str,
        precision: str,
        metadata: bool,
        block_weights: str = "",
        trigger: str = "",
        comment: str = "",
        unique_id: str | None = None,
    ) -> dict[str, Any]:
        """Write the file. Raises ConfigError and FileError."""
        host = door.host()
        path = target(host, name)
        extra = {"modelspec.trigger_phrase": trigger, "ss_training_comment": comment}
        extra = {key: text for key, text in extra.items() if text.strip()}
        notes: list[str] = []
        if block_weights.strip():
            bake = Bake(weights=block_weights, precision=precision)
            path = graphwork.free_path(path)
            baked = bake_file(lora.path, bake, path, extra=extra, keep_metadata=metadata)
            written, notes = baked.file, [finding.text for finding in baked.findings]
        else:
            written = graphwork.copy_network(
                lora.path, path, precision, extra, keep_metadata=metadata
            )
        size = f"{written.path.name}, {written.bytes / 2**20:.1f} MiB"  # the same in any language
        text = "\n".join((size, *notes))
        host.progress(unique_id).say(text)
        return {"ui": {"text": [text]}, "result": (str(written.path),)}


class BakeLoRA:
    """Folds block weights and strengths into a plain LoRA file."""

    RETURN_TYPES = (LORA, "STRING")
    RETURN_NAMES = ("lora", "path")
    FUNCTION = "bake"
    CATEGORY = CATEGORY
    OUTPUT_NODE = True
    DESCRIPTION = (
        "Folds block weights and strengths into a LoRA that draws at strength 1 what they draw, "
        "in every program."
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        """ComfyUI's declaration of the widgets."""
        limits = {"default": 1.0, "min": -10.0, "max": 10.0, "step": 0.05}
        return {
            "required": {
                "lora": (LORA, {"tooltip": "From TrainLoRA or LoadLoRAForTest."}),
                "name": ("STRING", {"default": "my_lora_baked", "tooltip": _NAME_HELP}),
                "block_weights": ("STRING", {"default": "ALL", "tooltip": WEIGHTS_HELP}),
                "strength_model": ("FLOAT", {**limits, "tooltip": "Factor of the U-Net's part."}),
                "strength_clip": (
                    "FLOAT",
                    {**limits, "tooltip": "Factor of the text encoder's part."},
                ),
                "precision": (list(PRECISIONS), {"default": "fp16", "tooltip": "Of the file."}),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def bake(
        self,
        lora: Lora,
        name: str,
        block_weights: str,
        strength_model: float,
        strength_clip: float,
        precision: str,
        unique_id: str | None = None,
    ) -> tuple[Lora, str]:
        """Write the baked file and open it. Raises ConfigError and FileError."""
        bake = Bake(
            weights=block_weights,
            unet=strength_model,
            text_encoder=strength_clip,
            precision=precision,
        )
        host = door.host()
        return opened(
            host, unique_id, bake_file(lora.path, bake, graphwork.free_path(target(host, name)))
        )


def opened(host: Host, node: str | None, made: Baked) -> tuple[Lora, str]:
    """The new file as LORA, and its path; what its user should know is said on the node."""
    if made.findings:  # together, since a text takes the place of the last one
        host.progress(node).say("\n".join(finding.text for finding in made.findings))
    return read_lora(made.file.path), str(made.file.path)


def target(host: Host, name: str) -> Any:
    """Where a file of this name goes. Raises ConfigError for what is no plain name."""
    check_name("name", name)
    if name.lower().endswith(".safetensors"):
        raise ConfigError(f"name is {name!r}; leave the .safetensors out, it is added")
    return host.lora_folder() / f"{name}.safetensors"
