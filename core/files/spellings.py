"""The spellings of adapter files: kohya's, diffusers', peft's and ComfyUI's, read as kohya's.

A key is a layer's name and a suffix that says which tensor of it this is. Kohya writes both in one
way (`names.py`); other tools have the module's own path, in diffusers' or in the original code's
names, and other suffixes for LoRA's two factors.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

UP, DOWN, ALPHA, DORA = "lora_up.weight", "lora_down.weight", "alpha", "dora_scale"

_AS_THEY_ARE = (
    *(UP, DOWN, "lora_mid.weight", ALPHA, DORA, "diff", "diff_b", "w_norm", "b_norm"),
    *(f"hada_{name}" for name in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
    *(f"lokr_{name}" for name in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
    *(f"{name}.weight" for name in ("a1", "a2", "b1", "b2", "bm")),
    *("oft_blocks", "oft_diag", "rescale", "on_input"),
)
_FACTOR = r"(?P<factor>up|down|A|B)"
_OTHERS = re.compile(
    rf"(?:\.lora|_lora|\.lora_linear_layer)[._]{_FACTOR}(?:\.default(?:_\d+)?)?\.weight$"
    r"|\.(?P<magnitude>lora_magnitude_vector)(?:\.default(?:_\d+)?)?(?:\.weight)?$"
)
_FACTORS = {"up": UP, "B": UP, "down": DOWN, "A": DOWN}
_IA3 = re.compile(r"\.weight$")

# what stands before a layer's name elsewhere -> kohya's
_PREFIXES = (
    ("unet.", "lora_unet_"),
    ("model.diffusion_model.", "lora_unet_"),
    ("diffusion_model.", "lora_unet_"),
    ("text_encoder_2.", "lora_te2_"),
    ("text_encoder.", "lora_te1_"),
    ("text_encoders.clip_l.transformer.", "lora_te1_"),
    ("text_encoders.clip_g.transformer.", "lora_te2_"),
    ("clip_l.transformer.", "lora_te1_"),
    ("clip_g.transformer.", "lora_te2_"),
    ("oft_unet_", "lora_unet_"),
    ("oft_te", "lora_te"),
    ("lycoris_", "lora_unet_"),
    ("down_blocks.", "lora_unet_down_blocks."),
    ("mid_block.", "lora_unet_mid_block."),
    ("up_blocks.", "lora_unet_up_blocks."),
)
_KOHYA = re.compile(r"lora_(?:unet|te|te1|te2)_")

# part of a key -> the family that the file is for; none of them can be drawn with yet
_FOREIGN = (
    ("double_blocks", "Flux or one of its relatives"),
    ("single_transformer_blocks", "Flux or one of its relatives"),
    ("joint_blocks", "Stable Diffusion 3"),
    ("lora_transformer_", "a diffusion transformer"),
    ("transformer.transformer_blocks", "a diffusion transformer"),
    ("diffusion_model.blocks.", "a video model"),
    ("diffusion_model.layers.", "a diffusion transformer"),
    ("lora_prior_", "Stable Cascade"),
)


class Spelled(NamedTuple):
    """A key's layer, in kohya's spelling but perhaps another tool's names, and its suffix."""

    layer: str
    suffix: str


def spelled(key: str, keys: Mapping[str, object]) -> Spelled | None:
    """Read a key of a file that has `keys`; None for what is no adapter's tensor."""
    name = key.removeprefix("base_model.model.")
    found = _split(name, key, keys)
    if found is None:
        return None
    stem, suffix = found
    stem = stem.replace(".processor.", ".")
    if stem.endswith((".to_out", "_to_out")):
        stem += ".0"
    if not _KOHYA.match(stem):
        start = next((pair for pair in _PREFIXES if stem.startswith(pair[0])), None)
        if start is None:
            return None
        stem = start[1] + stem.removeprefix(start[0])
    return Spelled(stem.replace(".", "_"), suffix)


def _split(name: str, key: str, keys: Mapping[str, object]) -> tuple[str, str] | None:
    for suffix in _AS_THEY_ARE:
        if name.endswith(f".{suffix}"):
            return name.removesuffix(f".{suffix}"), suffix
    if other := _OTHERS.search(name):
        return name[: other.start()], DORA if other["magnitude"] else _FACTORS[other["factor"]]
    if f"{key.removesuffix('.weight')}.on_input" in keys:  # IA3's only tensor
        return _IA3.sub("", name), "weight"
    return None


def foreign_family(keys: Iterable[str]) -> str:
    """The family, in words, of a file that is for none of ours; empty where there is no sign."""
    joined = "\n".join(keys)
    return next((title for sign, title in _FOREIGN if sign in joined), "")


_SDXL_ONLY = re.compile(
    r"lora_te2_|_transformer_blocks_[1-9]|_add_embedding_|_label_emb_|"
    r"unet_input_blocks_[78]_1_transformer_blocks_1"
)
_SD_ONLY = re.compile(
    r"unet_(?:down_blocks_0_attentions|down_blocks_3|up_blocks_3|input_blocks_(?:1|2)_1_|"
    r"input_blocks_(?:9|10|11)_|output_blocks_(?:9|10|11)_)"
)
_CONTEXT = re.compile(r"attn2_to_[kv]$")
_WIDTHS = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
_BY_METADATA = (("sdxl", "sdxl"), ("sd_v2", "sd2"), ("sd_v1", "sd1"))


def family_of(widths: Mapping[str, int], metadata: Mapping[str, str]) -> str | None:
    """The family that a file was made for, None where nothing tells.

    widths: inputs of each layer by kohya key, 0 where unknown. Names decide, then the width of
    what cross-attention reads, then the metadata.
    """
    names = "\n".join(widths)
    if _SDXL_ONLY.search(names):
        return "sdxl"
    of_text = {_WIDTHS[w] for key, w in widths.items() if _CONTEXT.search(key) and w in _WIDTHS}
    if len(of_text) == 1:
        return of_text.pop()
    stated = metadata.get("ss_base_model_version", "")
    by_file = next((family for sign, family in _BY_METADATA if stated.startswith(sign)), None)
    if by_file is None and metadata.get("ss_v2") == "True":
        by_file = "sd2"
    if by_file == "sdxl" and _SD_ONLY.search(names):
        return "sd1"
    return by_file or ("sd1" if _SD_ONLY.search(names) else None)
