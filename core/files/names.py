"""Kohya's key names for adapted layers: what the WebUI, Forge and ComfyUI look for in a file."""

from collections.abc import Iterable

_PREFIXES = {"sd1": {"unet": "lora_unet_", "text_encoder": "lora_te_"}}


def kohya_key(path: str, family: str = "sd1") -> str:
    """ "unet.down_blocks.0.attentions.0.proj_in" -> "lora_unet_down_blocks_0_attentions_0_proj_in".

    Source: sd-scripts `networks/lora.py`: prefix, then the module's path with "." as "_".
    """
    part, _, inside = path.partition(".")
    return _PREFIXES[family][part] + inside.replace(".", "_")


def paths_by_key(paths: Iterable[str], family: str = "sd1") -> dict[str, str]:
    """Key -> path for the layers of a model: the way back, which a key alone can't tell."""
    return {kohya_key(path, family): path for path in paths}
