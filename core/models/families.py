"""Model families, told from tensor names, shapes and metadata; and what files are otherwise."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ..errors import CheckpointError
from .checkpoint import Checkpoint, Shapes
from .keymaps import UNET_PREFIX, VAE_PREFIX

Prediction = Literal["epsilon", "v"]

_CONV_IN = f"{UNET_PREFIX}input_blocks.0.0.weight"
_ADAPTER = re.compile(
    r"(\.(lora_(up|down|mid|A|B)|hada_[wt]\d\w*|lokr_[wt]\d\w*|oft_(blocks|diag)|dora_scale|"
    r"[ab][12]\.weight|on_input|alpha)|_lora\.(up|down))(\.|$)"
)


_STATED: dict[str, Prediction] = {
    "eps": "epsilon",
    "epsilon": "epsilon",
    "v": "v",
    "v_prediction": "v",
    "v-prediction": "v",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """One architecture. `refusal` says why it is not trained (empty: it is).

    latent_scale: factor on the VAE's latents. resolution: pixels it was made for, unless the file
    says otherwise. text_prefixes: for each text encoder what stands before its tensors' names.
    """

    key: str
    title: str
    latent_scale: float = 0.18215
    resolution: int = 512
    prediction: Prediction = "epsilon"
    refusal: str = ""
    text_prefixes: Mapping[str, str] = field(default_factory=dict)


_REMEDY = "give the base model itself, a checkpoint with U-Net, text encoder and VAE"
_TRAINED = "Stable Diffusion 1.x, 2.x or XL"
_NOT_YET = f"give a {_TRAINED} checkpoint instead; this family can't be trained yet"
SD1 = Family(
    key="sd1",
    title="Stable Diffusion 1.x",
    text_prefixes={"text_encoder": "cond_stage_model."},
)
SD2 = Family(
    key="sd2",
    title="Stable Diffusion 2.x",
    text_prefixes={"text_encoder": "cond_stage_model."},
)
SDXL = Family(
    key="sdxl",
    title="Stable Diffusion XL",
    latent_scale=0.13025,
    resolution=1024,
    text_prefixes={
        "text_encoder": "conditioner.embedders.0.",
        "text_encoder_2": "conditioner.embedders.1.",
    },
)
FAMILIES: dict[str, Family] = {family.key: family for family in (SD1, SD2, SDXL)}
_LAST_NORM = re.compile(
    rf"{re.escape(UNET_PREFIX)}output_blocks\.(\d+)\.1\.transformer_blocks\.0\.norm1\.bias$"
)
_V_BIAS = 0.09  # standard deviation above which it is one of v
V_RESOLUTION = 768  # SD2's models for v-prediction are those for this side; the others have 512


def _refused(key: str, title: str) -> Family:
    return Family(key=key, title=title, refusal=_NOT_YET)


SDXL_REFINER = _refused("sdxl_refiner", "the Stable Diffusion XL refiner")
INPAINTING = _refused("inpainting", "an in-painting model (its U-Net takes a mask)")
DEPTH = _refused("depth", "a depth-to-image model (its U-Net takes a depth map)")
EDM = _refused("edm", "a model of EDM's noise levels (Playground 2.5, CosXL)")
IMAGE_EDIT = _refused("image_edit", "an image-editing model (its U-Net takes a second picture)")

# start of a U-Net tensor's name -> whose it is; names as in the families' own single files, and
# then as in diffusers'
_FLUX = _refused("flux", "Flux or one of its relatives")
_BY_NAME = (
    ("joint_blocks.", _refused("sd3", "Stable Diffusion 3")),
    ("double_blocks.", _FLUX),
    ("single_transformer_blocks.", _FLUX),
    ("double_stream_blocks.", _refused("hidream", "HiDream")),
    ("double_layers.", _refused("auraflow", "AuraFlow")),
    ("clip_txt_pooled_mapper.", _refused("cascade", "Stable Cascade")),
    ("cap_embedder.", _refused("lumina", "Lumina")),
    ("y_embedder.", _refused("pixart", "PixArt")),
    ("caption_projection.", _refused("dit", "a diffusion transformer")),
    ("text_embedding_padding", _refused("hunyuan", "HunyuanDiT")),
    ("patch_embedding.", _refused("wan", "a video model")),
    ("patchify_proj.", _refused("ltx", "a video model")),
    ("transformer_blocks.0.img_mod.", _refused("qwen", "Qwen-Image")),
    ("transformer_blocks.0.attn.add_q_proj.", _refused("sd3", "Stable Diffusion 3")),
)
# tensors by which checkpoints of SDXL's layout say that they were trained otherwise
_EDM_MARKS = ("edm_mean", "edm_std", "edm_vpred.sigma_max")
# part of a tensor's name -> what else the file is
_OTHER_KINDS = (
    ("control_model.", "a ControlNet"),
    ("controlnet_", "a ControlNet"),
    ("input_hint_block.", "a ControlNet"),
    ("string_to_param", "a textual inversion"),
    ("emb_params", "a textual inversion"),
    ("motion_modules.", "a motion module"),
    ("conv_first.", "an upscaler"),
    ("body.0.rdb1.", "an upscaler"),
    ("RDB1.conv1.", "an upscaler"),
    ("ip_adapter.", "an IP-Adapter"),
)


def identify(shapes: Shapes, metadata: Mapping[str, str]) -> Family | None:
    """The family of a checkpoint with these tensors, trained or not; None when it is unknown.

    Names decide, widths do not: a thin model of SD1's layout is SD1. metadata: only asked where
    names are not enough.
    """
    if _CONV_IN not in shapes:
        own = tuple(name.removeprefix(UNET_PREFIX) for name in shapes)
        return next((f for start, f in _BY_NAME if any(n.startswith(start) for n in own)), None)
    names = "\n".join(shapes)
    if any(mark in shapes for mark in _EDM_MARKS):
        return EDM
    if "conditioner.embedders.1." in names:
        return _by_channels(shapes, SDXL)
    if "conditioner.embedders.0.model." in names:
        return SDXL_REFINER
    if f"{UNET_PREFIX}label_emb." in names:
        refiner = "refiner" in metadata.get("modelspec.architecture", "")
        return SDXL_REFINER if refiner else _by_channels(shapes, SDXL)
    if "cond_stage_model.model." in names or _has_linear_projections(shapes):
        return _by_channels(shapes, SD2)
    return _by_channels(shapes, SD1)


def require_trained(checkpoint: Checkpoint) -> Family:
    """The family of a trainable checkpoint; otherwise a CheckpointError says what the file is."""
    shapes, path = checkpoint.shapes, checkpoint.path
    kind = _other_kind(shapes)
    if kind:
        raise CheckpointError(f"{path} is {kind}, not a checkpoint; {_REMEDY}")
    family = identify(shapes, checkpoint.metadata)
    if family is None:
        raise CheckpointError(f"{path} is {_fragment(shapes)}; {_REMEDY}")
    if family.refusal:
        raise CheckpointError(f"{path} is {family.title}: {family.refusal}")
    return family


def stated_prediction(checkpoint: Checkpoint, family: Family) -> Prediction:
    """What the U-Net predicts, by what the checkpoint carries, else as its family does.

    Asked in this order: marker tensor `v_pred`, metadata (after the file's own that of a sidecar
    yaml), and for SD2, whose two kinds differ in nothing else and mostly say nothing, the stated
    size and one layer's weights.
    """
    if "v_pred" in checkpoint.shapes:
        return "v"
    for key in ("modelspec.prediction_type", "prediction_type", "parameterization"):
        stated = _STATED.get(checkpoint.metadata.get(key, "").strip().lower())
        if stated is not None:
            return stated
    if family is SD2 and "768-v" in checkpoint.metadata.get("modelspec.architecture", ""):
        return "v"
    if family is SD2 and (
        stated_resolution(checkpoint, family) >= V_RESOLUTION or _has_weights_of_v(checkpoint)
    ):
        return "v"
    return family.prediction


def stated_zero_terminal_snr(checkpoint: Checkpoint) -> bool:
    """Whether a marker tensor or metadata `ztsnr` says: trained with zero terminal SNR."""
    keys = ("ztsnr", "zero_terminal_snr", "rescale_betas_zero_snr")
    stated = {checkpoint.metadata.get(key, "").strip().lower() for key in keys}
    return "ztsnr" in checkpoint.shapes or bool(stated - {"", "0", "false", "no", "none"})


def stated_resolution(checkpoint: Checkpoint, family: Family) -> int:
    """The side in pixels of `modelspec.resolution` ("512x512"), otherwise its family's."""
    found = re.fullmatch(
        r"\s*(\d{1,5})\s*(?:x\s*(\d{1,5})\s*)?",
        checkpoint.metadata.get("modelspec.resolution", ""),
    )
    side = min(int(number) for number in found.groups() if number) if found else 0
    return side if 64 <= side <= 4096 else family.resolution


def _has_weights_of_v(checkpoint: Checkpoint) -> bool:
    """Whether SD2's last attention has the wide biases that training for v gave it.

    A sign found on the published models. Source: ComfyUI `comfy/supported_models.py`.
    """
    found = {int(match[1]): name for name in checkpoint.shapes if (match := _LAST_NORM.match(name))}
    if not found:
        return False
    bias = checkpoint.tensor(found[max(found)]).float()
    return bool(bias.std(unbiased=False) > _V_BIAS)


def _by_channels(shapes: Shapes, family: Family) -> Family:
    """A family's variant by its U-Net's input channels: 4 latent ones and what stands beside."""
    shape = shapes[_CONV_IN]
    variants = {9: INPAINTING, 5: DEPTH, 8: IMAGE_EDIT}
    return variants.get(shape[1], family) if len(shape) == 4 else family


def _has_linear_projections(shapes: Shapes) -> bool:
    """Whether transformers are entered through linear layers: SD2's, whatever its text encoder."""
    ends = (len(shape) for name, shape in shapes.items() if name.endswith(".1.proj_in.weight"))
    return next(ends, 4) == 2


def _other_kind(shapes: Shapes) -> str:
    if _CONV_IN in shapes:
        return ""  # a checkpoint may bring such things along
    modules = {name[: found.start()] for name in shapes if (found := _ADAPTER.search(name))}
    if modules:
        return f"a LoRA ({len(modules)} modules)"
    names = "\n".join(shapes)
    return next((kind for part, kind in _OTHER_KINDS if part in names), "")


def _fragment(shapes: Shapes) -> str:
    """What a file without a U-Net of LDM's names is, in words."""
    names = "\n".join(shapes)
    if f"{UNET_PREFIX}input_blocks" in names or UNET_PREFIX in names:
        return "a checkpoint whose U-Net is not laid out as Stable Diffusion's"
    if "down_blocks.0." in names and "encoder.down_blocks." not in names:
        return "a U-Net only, in diffusers' names"
    vae = VAE_PREFIX in names or "encoder.conv_in.weight" in shapes
    if vae and "cond_stage_model." not in names and "conditioner." not in names:
        return "a VAE only"
    if "input_blocks.0.0.weight" in shapes or "diffusion_model.input_blocks" in names:
        return "a U-Net only"
    if "text_model." in names and not vae:
        return "a text encoder only"
    return f"not a checkpoint that is known here ({len(shapes)} tensors, no U-Net among them)"
