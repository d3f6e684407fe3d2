"""Writes the trained networks as one single file in the key layout of real SD1 checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..models.families import SD1
from ..models.keymaps import (
    UNET_PREFIX,
    VAE_PREFIX,
    TextLayout,
    UNetLayout,
    VaeLayout,
    canonical_text_name,
    inverted,
    is_vae_projection,
    text_names,
    unet_map,
    vae_map,
)

Tensors = dict[str, Tensor]
TEXT_PREFIX = f"{SD1.text_prefixes['text_encoder']}transformer."
METADATA = {
    "format": "pt",
    "modelspec.sai_model_spec": "1.0.0",
    "modelspec.architecture": "stable-diffusion-v1",
    "modelspec.implementation": "diffusers",
    "modelspec.title": "LoRA Loop embedded base",
    "modelspec.license": "Apache-2.0",
    "modelspec.prediction_type": "epsilon",
    "modelspec.resolution": "64x64",
}


def ldm_tensors(unet: Tensors, vae: Tensors, text: Tensors) -> Tensors:
    """Give the three networks' weights their names and shapes in an SD1 single file, fp16.

    Older versions of transformers count the text encoder's positions among its weights.
    """
    spatial = {
        name: value[:, :, None, None] if is_vae_projection(name) and value.ndim == 2 else value
        for name, value in vae.items()
    }
    parts = (
        (UNET_PREFIX, unet_map(UNetLayout(widths=(64, 64, 128, 128))), unet),
        (VAE_PREFIX, vae_map(VaeLayout(widths=(128, 64, 64, 128), resnets=1)), spatial),
        (
            f"{SD1.text_prefixes['text_encoder']}transformer.",
            {name: name for name in text_names(TextLayout(layers=4))},
            {
                canonical_text_name(name): value
                for name, value in text.items()
                if not name.endswith("position_ids")
            },
        ),
    )
    tensors: Tensors = {}
    for prefix, names, weights in parts:
        ours = inverted(names)
        if missing := ours.keys() ^ weights.keys():
            raise ValueError(f"names that the map and the network do not share: {sorted(missing)}")
        for name, value in weights.items():
            tensors[prefix + ours[name]] = value.detach().contiguous().to(torch.float16)
    return tensors


def export(folder: Path, target: Path, stage: str) -> None:
    """Write the checkpoint of a training folder; stage: what the metadata says, e.g. 'final'."""
    unet = torch.load(folder / "unet.pt")["average"]["values"]
    vae = torch.load(folder / "vae_white.pt")
    text = torch.load(folder / "text.pt")
    part = target.with_suffix(".part")
    save_file(ldm_tensors(unet, vae, text), part, METADATA | {"lora_loop.stage": stage})
    part.replace(target)
