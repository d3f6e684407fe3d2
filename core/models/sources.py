"""What users give as a base model, in one form: tensors under the names of LDM's single files.

A single file is that already; a folder of diffusers' gets their names, its own ones are kept for
errors; a separate VAE takes the place of the checkpoint's own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ..errors import CheckpointError
from ..log import logger
from . import families
from .checkpoint import Checkpoint, Shapes, open_checkpoint
from .diffusers_folder import INDEX, open_component, open_folder, vae_names
from .keymaps import UNET_PREFIX, VAE_PREFIX

_SIDECAR_BYTES = 1 << 18  # an inference config of LDM's has 2 KB
_SETTING = re.compile(r"^[\s-]*(\w+)\s*:\s*[\"']?([\w.]+)[\"']?\s*(?:#.*)?$", re.MULTILINE)
_ZERO_SNR = ("ztsnr", "zero_terminal_snr", "rescale_betas_zero_snr")
# beside a VAE's own tensors: of its training, or of a whole checkpoint
_NOT_OF_A_VAE = ("loss.", "model_ema.", "discriminator.")


def open_source(path: Path, vae: str | Path = "") -> Checkpoint:
    """Open a base model: a single file, or a folder of diffusers'.

    vae: a VAE's file or folder, to take instead of the model's own; "" for none. Raises
    CheckpointError.
    """
    path = path.expanduser()
    path = path.parent if path.name == INDEX else path
    opened = open_folder(path) if path.is_dir() else _with_sidecar(open_checkpoint(path))
    return _with_vae(opened, Path(vae).expanduser()) if str(vae) else opened


# ---- a yaml file beside a checkpoint ---------------------------------------------------------


def _with_sidecar(opened: Checkpoint) -> Checkpoint:
    """Add what MODEL.yaml beside MODEL.safetensors says; what the file itself says goes first."""
    path = opened.path.with_suffix(".yaml")
    try:
        if not path.is_file() or path.stat().st_size > _SIDECAR_BYTES:
            return opened
        stated = read_sidecar(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        logger.warning("%s can't be read and is left aside: %s", path, error)
        return opened
    return replace(opened, metadata={**stated, **opened.metadata})


def read_sidecar(text: str) -> dict[str, str]:
    """What a checkpoint's configuration of LDM or SGM says of its prediction, as metadata.

    Only lines of the form `name: word` count, wherever they stand: no yaml is interpreted.
    """
    stated = {}
    for name, value in _SETTING.findall(text):
        kind = value.rpartition(".")[2]
        if name == "parameterization" or name in _ZERO_SNR:
            stated[name] = value
        elif name == "target" and kind.startswith(("VScaling", "EpsScaling")):
            stated["parameterization"] = "v" if kind.startswith("V") else "eps"
    return stated


# ---- a separate VAE --------------------------------------------------------------------------


def _with_vae(opened: Checkpoint, path: Path) -> Checkpoint:
    """The checkpoint with another VAE in place of its own. Raises CheckpointError."""
    vae = _open_vae(path)
    _refuse_another_familys(opened, vae)
    names = {f"{VAE_PREFIX}{name}": own for name, own in _vae_tensors(vae).items()}
    shapes = {n: shape for n, shape in opened.shapes.items() if not n.startswith(VAE_PREFIX)}
    shapes |= {name: vae.shapes[own] for name, own in names.items()}

    def tensor(name: str):
        own = names.get(name)
        return opened.tensor(name) if own is None else vae.tensor(own)

    def spelled(name: str) -> str:
        own = names.get(name)
        if own is None and not name.startswith(VAE_PREFIX):
            return opened.spelled(name)
        return f"{path}: {own or name.removeprefix(VAE_PREFIX)}"

    return replace(opened, shapes=shapes, tensor=tensor, spelled=spelled, vae=vae)


def _open_vae(path: Path) -> Checkpoint:
    try:
        if not path.is_dir():
            return open_checkpoint(path)
        return open_component(path / "vae" if (path / "vae").is_dir() else path)
    except CheckpointError as error:
        raise CheckpointError(f"base.vae: {error}") from error


def _vae_tensors(vae: Checkpoint) -> Mapping[str, str]:
    """LDM's name, without prefix -> the name in the file, of each of a VAE's tensors."""
    prefix = VAE_PREFIX if any(name.startswith(VAE_PREFIX) for name in vae.shapes) else ""
    own = {n.removeprefix(prefix): n for n in vae.shapes if n.startswith(prefix)}
    own = {name: full for name, full in own.items() if not name.startswith(_NOT_OF_A_VAE)}
    if "encoder.conv_in.weight" not in own or "decoder.conv_in.weight" not in own:
        raise CheckpointError(
            f"base.vae: {vae.path} is not a VAE of Stable Diffusion: it lacks encoder.conv_in or "
            "decoder.conv_in; give a VAE's file or folder, or leave base.vae empty"
        )
    theirs = vae_names({name: vae.shapes[full] for name, full in own.items()})
    return {theirs.get(name, name): full for name, full in own.items()}


def _refuse_another_familys(opened: Checkpoint, vae: Checkpoint) -> None:
    """Tell SD's VAEs from SDXL's: alike in all their shapes, they differ by their latents' scale.

    Known where the file says it, by its configuration or by being a whole checkpoint.
    """
    family = families.identify(opened.shapes, opened.metadata)
    if family is None or family.refusal:
        return  # said later, in better words
    remedy = f"give a VAE of {family.title}, or leave base.vae empty"
    channels = _channels(vae.shapes, "decoder.conv_in.weight")
    wanted = _channels(opened.shapes, f"{UNET_PREFIX}input_blocks.0.0.weight")
    if channels and wanted and channels != wanted:
        raise CheckpointError(
            f"base.vae: {vae.path} makes latents of {channels} channels, and the U-Net of "
            f"{opened.path} takes {wanted}: {remedy}"
        )
    scale = _stated_scale(vae)
    if scale is not None and abs(scale - family.latent_scale) > 1e-4:
        raise CheckpointError(
            f"base.vae: {vae.path} is made for latents scaled by {scale:g}, and {opened.path} is "
            f"{family.title}, whose latents are scaled by {family.latent_scale:g}: {remedy}"
        )


def _channels(shapes: Shapes, name: str) -> int:
    shape = shapes.get(name) or shapes.get(VAE_PREFIX + name) or ()
    return shape[1] if len(shape) == 4 else 0


def _stated_scale(vae: Checkpoint) -> float | None:
    stated = vae.metadata.get("scaling_factor", "")
    if re.fullmatch(r"\d*\.\d+", stated):
        return float(stated)
    whole = families.identify(vae.shapes, vae.metadata)
    if whole is not None:
        return whole.latent_scale
    if "xl" in vae.metadata.get("modelspec.architecture", ""):
        return families.SDXL.latent_scale
    return None
