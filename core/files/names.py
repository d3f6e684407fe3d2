"""Kohya's key names for adapted layers: what the WebUI, Forge and ComfyUI look for in a file.

SD1 and SD2 keep diffusers' names of the U-Net, SDXL takes those of its original code (LDM's, which
SGM kept). We write that one spelling; a file of another tool may have the other.
"""

import re
from collections.abc import Iterable
from contextlib import suppress

_UNET = "lora_unet_"
_PREFIXES = {
    "sd1": {"unet": _UNET, "text_encoder": "lora_te_"},
    "sd2": {"unet": _UNET, "text_encoder": "lora_te_"},
    "sdxl": {"unet": _UNET, "text_encoder": "lora_te1_", "text_encoder_2": "lora_te2_"},
}
# Some tools number a single text encoder too; ComfyUI reads that, the WebUI for SD1 alone.
_ALSO = {"sd1": {"text_encoder": "lora_te1_"}, "sd2": {"text_encoder": "lora_te1_"}}
_IN_LDM_NAMES = frozenset({"sdxl"})
_ENDS = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_INSIDE = {
    "resnets": {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    },
    "downsamplers": {"conv": "op"},
    "upsamplers": {"conv": "conv"},
}
_PLACE = re.compile(
    r"(?P<side>down_blocks|mid_block|up_blocks)(?:\.(?P<level>\d))?"
    r"\.(?P<kind>resnets|attentions|downsamplers|upsamplers)\.(?P<index>\d)\.(?P<inside>.+)"
)
# LDM numbers the blocks of all levels through, three to a level. The place within one of them:
_SLOTS = {
    ("down_blocks", "resnets"): 0,
    ("down_blocks", "attentions"): 1,
    ("down_blocks", "downsamplers"): 0,
    ("up_blocks", "resnets"): 0,
    ("up_blocks", "attentions"): 1,
    ("up_blocks", "upsamplers"): 2,
}
# (family, level) of the upsamplers that have no transformer before them
_UPSAMPLER_SLOTS = {("sd1", 0): 1, ("sd2", 0): 1}


def kohya_key(path: str, family: str = "sd1") -> str:
    """ "unet.down_blocks.0.attentions.0.proj_in" -> "lora_unet_down_blocks_0_attentions_0_proj_in".

    For SDXL "lora_unet_input_blocks_..." where the layer lies in LDM's names. ValueError for what
    is no layer of that family. Source: sd-scripts `networks/lora.py`: prefix, then the module's
    path with "." as "_".
    """
    part, _, inside = path.partition(".")
    prefix = _PREFIXES.get(family, {}).get(part)
    if prefix is None or not inside:
        raise ValueError(f"{path} has no key: {family} has no such part")
    if part == "unet" and family in _IN_LDM_NAMES:
        return prefix + _flat(_ldm_name(inside, family))
    return prefix + _flat(inside)


def paths_by_key(paths: Iterable[str], family: str = "sd1") -> dict[str, str]:
    """Key -> path for the layers of a model: the way back, which a key alone can't tell.

    Beside each layer's own key it holds the other spellings that hosts read, so two keys of a file
    may mean one layer.
    """
    paths = tuple(paths)
    own = {kohya_key(path, family): path for path in paths}
    other = {key: path for path in paths for key in _other_keys(path, family)}
    return {**other, **own}


_DIFFUSERS_KEY = re.compile(
    r"(?P<side>down_blocks|mid_block|up_blocks)(?:_(?P<level>\d))?"
    r"_(?P<kind>resnets|attentions|downsamplers|upsamplers)_(?P<index>\d)_(?P<inside>.+)"
)


def own_key(key: str, family: str) -> str:
    """Spell a U-Net layer's key as kohya does for this family; other keys come back as they are.

    "lora_unet_down_blocks_1_attentions_0_proj_in" -> "lora_unet_input_blocks_4_1_proj_in" for SDXL,
    and the reverse for SD1 and SD2.
    """
    name = key.removeprefix(_UNET)
    if name == key:
        return key
    if family in _IN_LDM_NAMES:
        ends = {_flat(own): _flat(ldm) for own, ldm in _ENDS.items()}
        place = _DIFFUSERS_KEY.fullmatch(name)
        if place is None:
            return _UNET + ends.get(name, name)
        parts = (place["side"], place["level"], place["kind"], place["index"], place["inside"])
        dotted = ".".join(part for part in parts if part is not None)
        with suppress(ValueError):  # a layer that no model of the family has
            return _UNET + _flat(_ldm_name(dotted, family))
        return key
    ends = {_flat(ldm): _flat(own) for own, ldm in _ENDS.items()}
    return _UNET + ends.get(name, _diffusers_name(name) or name)


def _diffusers_name(name: str) -> str | None:
    """A flat LDM name ("input_blocks_4_1_proj_in") in diffusers' names; None where it is none."""
    place = re.fullmatch(r"(input|middle|output)_blocks?_(\d+)_(?:(\d)_)?(.+)", name)
    if place is None:
        return None
    side, number, inside = place[1], int(place[2]), place[4]
    if side == "middle":
        inside = "_".join(part for part in (place[3], inside) if part)
        kind = "attentions_0" if number == 1 else f"resnets_{number // 2}"
        return f"mid_block_{kind}_{_flat_inside(kind, inside)}"
    level, index = divmod(number - 1 if side == "input" else number, 3)
    prefix = f"{'down' if side == 'input' else 'up'}_blocks_{level}"
    if inside == "op":
        return f"{prefix}_downsamplers_0_conv"
    if inside == "conv":
        return f"{prefix}_upsamplers_0_conv"
    kind = f"{'attentions' if place[3] == '1' else 'resnets'}_{index}"
    return f"{prefix}_{kind}_{_flat_inside(kind, inside)}"


def _flat_inside(kind: str, inside: str) -> str:
    if kind.startswith("attentions"):
        return inside
    inner = {_flat(ldm): own for own, ldm in _INSIDE["resnets"].items()}
    return inner.get(inside, inside)


def _other_keys(path: str, family: str) -> Iterable[str]:
    part, _, inside = path.partition(".")
    if prefix := _ALSO.get(family, {}).get(part):
        yield prefix + _flat(inside)
    if part == "unet":
        name = inside if family in _IN_LDM_NAMES else _ldm_name(inside, family)
        yield _PREFIXES[family][part] + _flat(name)


def _flat(name: str) -> str:
    return name.replace(".", "_")


def _ldm_name(name: str, family: str) -> str:
    """A U-Net's module in LDM's names ("input_blocks.4.1.proj_in"); ValueError if it has none.

    Source: CompVis/latent-diffusion `openaimodel.py`, Stability-AI/generative-models.
    """
    if end := _ENDS.get(name):
        return end
    place = _PLACE.fullmatch(name)
    inside = place and _inside(place["kind"], place["inside"])
    block = place and _block(place, family)
    if not (inside and block):
        raise ValueError(f"unet.{name} has no key: {family} has no such layer")
    return f"{block}.{inside}"


def _inside(kind: str, name: str) -> str | None:
    return _INSIDE[kind].get(name) if kind in _INSIDE else name


def _block(place: re.Match[str], family: str) -> str | None:
    side, kind, index = place["side"], place["kind"], int(place["index"])
    if side == "mid_block" and not place["level"]:
        return {"resnets": f"middle_block.{2 * index}", "attentions": "middle_block.1"}.get(kind)
    slot = _SLOTS.get((side, kind))
    if slot is None or not place["level"]:
        return None
    level = int(place["level"])
    sampler = kind in {"downsamplers", "upsamplers"}
    number = 3 * level + (2 if sampler else index)
    if kind == "upsamplers":
        slot = _UPSAMPLER_SLOTS.get((family, level), slot)
    return (
        f"input_blocks.{number + 1}.{slot}"
        if side == "down_blocks"
        else f"output_blocks.{number}.{slot}"
    )
