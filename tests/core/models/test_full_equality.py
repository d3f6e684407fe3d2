"""Full-width networks read by us against diffusers' and transformers', part by part.

One part of one model is in memory at a time: SDXL's U-Net alone takes 10 GB in fp32.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.loaders import single_file_utils
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_loop.core.models.base_model import Outline, outline_checkpoint, resolve_facts
from lora_loop.core.models.checkpoint import Checkpoint, open_checkpoint
from lora_loop.core.models.filling import Placement, fill
from lora_loop.core.models.keymaps import canonical_text_name
from lora_loop.core.models.text import TEXT_USES, TextOptions, encode_captions
from lora_loop.core.models.tokenizer import END, ClipTokenizer

from ..published import UNETS
from . import make_checkpoint as full

PLACE = Placement(torch.device("cpu"), torch.float32)
CAPTIONS = ["a photo of a cat", "1girl, solo, smile"]
NAMES: dict[str, Callable[[], list[full.Shaped]]] = {
    "sd1": lambda: list(full.sd1_names(full.FULL)),
    "sd2": lambda: full.sd2_names(full.FULL_SD2, full.FULL_SD2_TEXT),
    "sdxl": lambda: full.sdxl_names(full.FULL_SDXL, full.FULL_SDXL_TEXT),
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
CLIP_L: dict[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
# SD2's and SDXL's encoders of open_clip: prefix, kind, configuration
OPEN_CLIP: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "sd2": (
        "cond_stage_model.model.",
        CLIPTextModel,
        # diffusers' conversion, too, leaves the last of 24 layers out
        {"hidden_size": 1024, "num_hidden_layers": 23, "num_attention_heads": 16},
    ),
    "sdxl": (
        "conditioner.embedders.1.model.",
        CLIPTextModelWithProjection,
        {"hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 20},
    ),
}


class Case:
    """A full-width checkpoint in fp16, read from its header."""

    def __init__(self, family: str, path: Path) -> None:
        self.family = family
        full.write_checkpoint(path, NAMES[family](), 11, torch.float16)
        self.opened: Checkpoint = open_checkpoint(path)
        facts = resolve_facts(self.opened, "auto", "auto")
        self.outline: Outline = outline_checkpoint(self.opened, facts)

    def tensors(self, prefix: str) -> dict[str, torch.Tensor]:
        """fp32, without the help of what is tested but its reading of bytes."""
        names = [name for name in self.opened.shapes if name.startswith(prefix)]
        return {name: self.opened.tensor(name).float() for name in names}

    def ours(self, part: str) -> Any:
        fill(self.outline.parts[part], self.opened, PLACE)
        return self.outline.networks[part]

    def forget(self, part: str) -> None:
        self.outline.networks[part].to("meta")


@pytest.fixture(scope="module", params=["sd1", "sd2", "sdxl"])
def case(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("full") / f"{request.param}.safetensors"
    yield Case(request.param, path)
    path.unlink()


def filled(network: Any, state: dict[str, torch.Tensor]) -> Any:
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def report(capsys, case: Case, part: str, found: torch.Tensor, wanted: torch.Tensor) -> None:
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    with capsys.disabled():
        sys.stdout.write(f"\n{case.family} {part}: {difference:.1e}")
    assert difference < 1e-5


@pytest.mark.slow
@torch.no_grad()
def test_unet(case, capsys):
    generator = torch.Generator().manual_seed(0)
    config = UNETS[case.family]
    latents = torch.randn(2, 4, 8, 16, generator=generator)
    context = torch.randn(2, 77, config["cross_attention_dim"], generator=generator)
    timestep, added = torch.tensor([10, 900]), None
    if case.family == "sdxl":
        sizes = torch.tensor([[1080, 1920, 0, 131, 832, 1216], [1024] * 6])
        pooled = torch.randn(2, 1280, generator=generator)
        added = {"text_embeds": pooled, "time_ids": sizes}

    def answer(unet: Any) -> torch.Tensor:
        return unet(latents, timestep, context, added_cond_kwargs=added, return_dict=False)[0]

    with torch.device("meta"):
        theirs = UNet2DConditionModel(**config)
    state = single_file_utils.convert_ldm_unet_checkpoint(
        case.tensors("model.diffusion_model."), dict(theirs.config)
    )
    wanted = answer(filled(theirs, state))
    del theirs, state
    found = answer(case.ours("unet"))
    case.forget("unet")
    report(capsys, case, "U-Net", found, wanted)


@pytest.mark.slow
@torch.no_grad()
def test_vae(case, capsys):
    pixels = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.device("meta"):
        theirs = AutoencoderKL(**VAE)
    state = single_file_utils.convert_ldm_vae_checkpoint(
        case.tensors("first_stage_model."), dict(theirs.config)
    )
    networks: list[Any] = [filled(theirs, state), case.ours("vae")]
    wanted, found = (network.encode(pixels).latent_dist.parameters for network in networks)
    report(capsys, case, "VAE, encoder", found, wanted)
    latents = wanted[:, :4]
    wanted, found = (network.decode(latents).sample for network in networks)
    report(capsys, case, "VAE, decoder", found, wanted)
    case.forget("vae")


def clip(kind: Any, config: dict[str, Any], state: dict[str, torch.Tensor]) -> Any:
    with torch.device("meta"):
        network = kind(CLIPTextConfig(eos_token_id=END, **config))
    own = {canonical_text_name(name): name for name in network.state_dict()}
    given = {own[name]: value for name, value in state.items() if name in own}
    missing = network.load_state_dict(given, strict=False, assign=True).missing_keys
    assert all("position_ids" in name for name in missing)
    for module in network.modules():
        if getattr(module, "position_ids", None) is not None:
            module.register_buffer("position_ids", torch.arange(77)[None], persistent=False)
    return network.eval().requires_grad_(False)


def open_clip(case: Case) -> Any:
    prefix, kind, config = OPEN_CLIP[case.family]
    width = config["hidden_size"]
    holder = type("Holder", (), {"config": CLIPTextConfig(hidden_size=width)})()
    state = single_file_utils.convert_open_clip_checkpoint(holder, case.tensors(prefix), prefix)
    more = {"intermediate_size": 4 * width, "projection_dim": width, "hidden_act": "gelu"}
    return clip(kind, {**config, **more}, state)


def open_ais(case: Case) -> Any:
    start = {"sd1": "cond_stage_model.", "sdxl": "conditioner.embedders.0."}[case.family]
    prefix = f"{start}transformer."
    state = {name.removeprefix(prefix): value for name, value in case.tensors(prefix).items()}
    return clip(CLIPTextModel, CLIP_L, state)


def padded(ids: torch.Tensor) -> torch.Tensor:
    behind = (ids == END).cumsum(1) - (ids == END).int() > 0
    return ids.masked_fill(behind, 0)


@pytest.mark.slow
@pytest.mark.parametrize("clip_skip", [1, 2])
@torch.no_grad()
def test_text(case, capsys, clip_skip):
    if clip_skip == 2 and case.family != "sd1":
        pytest.skip("SD2 and SDXL read a fixed layer")
    ids = ClipTokenizer().encode(CAPTIONS)
    contexts, pooled = [], None
    if case.family != "sd2":
        theirs = open_ais(case)
        states = theirs(ids, output_hidden_states=True).hidden_states
        norm = getattr(theirs, "text_model", theirs).final_layer_norm
        contexts.append(norm(states[-clip_skip]) if case.family == "sd1" else states[-2])
    if case.family != "sd1":
        theirs = open_clip(case)
        told = theirs(padded(ids), output_hidden_states=True)
        norm = getattr(theirs, "text_model", theirs).final_layer_norm
        states = told.hidden_states
        contexts.append(norm(states[-1]) if case.family == "sd2" else states[-2])
        pooled = told.text_embeds if case.family == "sdxl" else None
    parts = [part for part in case.outline.networks if part.startswith("text")]
    found = encode_captions(
        [case.ours(part) for part in parts],
        TEXT_USES[case.family],
        ClipTokenizer(),
        CAPTIONS,
        TextOptions(clip_skip=clip_skip),
    )
    report(capsys, case, f"text, clip_skip {clip_skip}", found.context, torch.cat(contexts, dim=-1))
    if pooled is not None:
        assert found.pooled is not None
        report(capsys, case, "pooled", found.pooled, pooled)
    for part in parts:
        case.forget(part)
