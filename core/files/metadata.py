"""What a network file says of itself: sd-scripts' ss_ keys and modelspec 1.0.1.

Source of the keys and their spelling: sd-scripts `train_network.py` and
`library/sai_model_spec.py`. Who reads which: the WebUI's Lora extension (version filter, tags),
Forge (modelspec first), ComfyUI's model lists. Times and a run's id are left out: equal trainings
make equal files.
"""

import json
from dataclasses import dataclass, replace
from typing import NamedTuple

from ..config.network import NetworkConfig
from ..config.recipe import Recipe
from .metadata_dataset import (
    Folder,
    bucket_info,
    directory,
    fitting_folders,
    legible,
    legible_folders,
    subset,
    tag_frequency,
)

_OPTIMIZERS = {"adamw": "torch.optim.adamw.AdamW"}
IMPLEMENTATION = "lora-loop"
_DIFFUSERS = "diffusers"
_SGM = "https://github.com/Stability-AI/generative-models"


class _Spec(NamedTuple):
    architecture: str
    implementation: str
    base_version: str


# (family, prediction) -> what sd-scripts calls it
_SPECS = {
    ("sd1", "epsilon"): _Spec("stable-diffusion-v1/lora", _DIFFUSERS, "sd_v1"),
    ("sd1", "v"): _Spec("stable-diffusion-v1/lora", _DIFFUSERS, "sd_v1_v"),
    ("sd2", "epsilon"): _Spec("stable-diffusion-v2-512/lora", _DIFFUSERS, "sd_v2"),
    ("sd2", "v"): _Spec("stable-diffusion-v2-768-v/lora", _DIFFUSERS, "sd_v2_v"),
    ("sdxl", "epsilon"): _Spec("stable-diffusion-xl-v1-base/lora", _SGM, "sdxl_base_v1-0"),
    ("sdxl", "v"): _Spec("stable-diffusion-xl-v1-base/lora", _SGM, "sdxl_base_v1-0"),
}
# The others have a fixed layer, and sd-scripts' users leave the setting out for them.
_WITH_CLIP_SKIP = frozenset({"sd1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFacts:
    """What a finished or stopped run knows beside its recipe.

    output_name: the file's name without suffix. base_file, base_sha256, base_old_hash: the
    checkpoint's file name and hashes (64 and 8 hex digits), None where it is a host's live model
    and its file isn't known; vae_file and so on: the same of a VAE that was given apart. buckets:
    (width, height, pictures seen an epoch). aspect_error: mean difference between the aspect
    ratios of pictures and their buckets. steps, epoch: taken; total_steps: planned.
    """

    output_name: str
    family: str
    prediction: str
    zero_terminal_snr: bool
    base_file: str | None
    base_sha256: str | None
    base_old_hash: str | None
    resolution: int
    folders: tuple[Folder, ...]
    buckets: tuple[tuple[int, int, int], ...]
    aspect_error: float
    batches_per_epoch: int
    epochs: int
    epoch: int
    steps: int
    total_steps: int
    precision: str
    version: str
    vae_file: str | None = None
    vae_sha256: str | None = None
    vae_old_hash: str | None = None


def training_metadata(recipe: Recipe, facts: RunFacts) -> dict[str, str]:
    """All metadata of a trained network but its hashes, which come with the bytes.

    What is not known is "None". Where folders, buckets or tags are too many for a file's header,
    the rarest are left out, and the log says how many.
    """
    facts = replace(facts, folders=legible_folders(facts.folders))
    buckets = bucket_info(facts.buckets, facts.aspect_error)
    groups = (
        _run(recipe, facts),
        _rates(recipe, facts),
        _objective(recipe, facts),
        _data(recipe, facts, buckets),
        _folder_mode(recipe, facts, buckets),
        _modelspec(recipe, facts),
    )
    return {key: _text(value) for group in groups for key, value in group.items()}


def _run(recipe: Recipe, facts: RunFacts) -> dict[str, object]:
    network, tokens = recipe.network, recipe.dataset.caption_tokens
    return {
        "ss_output_name": facts.output_name,
        "ss_training_comment": recipe.output.comment or None,
        "ss_seed": recipe.training.seed,
        "ss_steps": facts.steps,
        "ss_epoch": facts.epoch,
        "ss_max_train_steps": facts.total_steps,
        "ss_num_epochs": facts.epochs,
        "ss_network_module": "networks.lora",
        "ss_network_dim": network.rank,
        "ss_network_alpha": float(network.alpha),
        "ss_network_dropout": None,
        "ss_network_args": _network_args(network),
        "ss_scale_weight_norms": None,
        "ss_v2": facts.family == "sd2",
        "ss_base_model_version": _spec(facts).base_version,
        "ss_sd_model_name": facts.base_file,
        "ss_sd_model_hash": facts.base_old_hash,
        "ss_new_sd_model_hash": facts.base_sha256,
        "ss_vae_name": facts.vae_file,
        "ss_vae_hash": facts.vae_old_hash,
        "ss_new_vae_hash": facts.vae_sha256,
        "ss_clip_skip": _clip_skip(recipe, facts),
        "ss_max_token_length": {75: None}.get(tokens, tokens),
        "ss_mixed_precision": {"fp32": "no"}.get(facts.precision, facts.precision),
        "ss_full_fp16": False,
        "ss_fp8_base": False,
        "ss_fp8_base_unet": False,
        "ss_lowram": False,
        "ss_cache_latents": True,
    }


def _network_args(network: NetworkConfig) -> dict[str, str]:
    """As on sd-scripts' command line, where all values are texts."""
    if not network.conv_rank:
        return {}
    alpha = network.conv_alpha or float(network.conv_rank)
    return {"conv_dim": str(network.conv_rank), "conv_alpha": str(alpha)}


def _rates(recipe: Recipe, facts: RunFacts) -> dict[str, object]:
    optimizer, network = recipe.optimizer, recipe.network
    return {
        "ss_learning_rate": optimizer.unet_lr,
        "ss_unet_lr": optimizer.unet_lr if network.unet else None,
        "ss_text_encoder_lr": optimizer.text_encoder_lr if network.text_encoder else None,
        "ss_optimizer": f"{_OPTIMIZERS[optimizer.name]}(weight_decay={optimizer.weight_decay:g})",
        "ss_lr_scheduler": recipe.lr_schedule.kind,
        "ss_lr_warmup_steps": round(recipe.lr_schedule.warmup * facts.total_steps),
        "ss_max_grad_norm": optimizer.max_grad_norm,
        "ss_gradient_accumulation_steps": recipe.training.gradient_accumulation,
        "ss_gradient_checkpointing": recipe.memory.gradient_checkpointing,
    }


def _objective(recipe: Recipe, facts: RunFacts) -> dict[str, object]:
    objective = recipe.objective
    unused = (
        *("ss_noise_offset_random_strength", "ss_adaptive_noise_scale"),
        *("ss_multires_noise_iterations", "ss_multires_noise_discount", "ss_ip_noise_gamma"),
        *("ss_ip_noise_gamma_random_strength", "ss_debiased_estimation", "ss_huber_schedule"),
        *("ss_huber_scale", "ss_huber_c", "ss_face_crop_aug_range", "ss_resize_interpolation"),
        *("ss_validation_seed", "ss_max_validation_steps"),
        *("ss_validate_every_n_epochs", "ss_validate_every_n_steps"),
    )
    return {
        **dict.fromkeys(unused),
        "ss_debiased_estimation": False,
        "ss_noise_offset": objective.noise_offset or None,
        "ss_min_snr_gamma": objective.min_snr_gamma or None,
        "ss_zero_terminal_snr": facts.zero_terminal_snr,
        "ss_loss_type": "l2",
        "ss_prior_loss_weight": 1.0,
        "ss_caption_dropout_rate": 0.0,
        "ss_caption_dropout_every_n_epochs": 0,
        "ss_caption_tag_dropout_rate": 0.0,
        "ss_validation_split": 0.0,
    }


def _data(recipe: Recipe, facts: RunFacts, buckets: dict[str, object]) -> dict[str, object]:
    images = sum(folder.seen for folder in facts.folders)
    extension = recipe.dataset.caption_extension
    folders = fitting_folders(facts.folders, extension)
    dataset = {
        "is_dreambooth": True,
        "batch_size_per_device": recipe.training.batch_size,
        "num_train_images": images,
        "num_reg_images": 0,
        "resolution": [facts.resolution, facts.resolution],
        "enable_bucket": recipe.dataset.buckets,
        "bucket_no_upscale": not recipe.dataset.bucket_upscale,
        "tag_frequency": tag_frequency(folders, recipe.output.trigger),
        "bucket_info": buckets,
        "subsets": [subset(folder, extension) for folder in folders],
    }
    return {
        "ss_num_train_images": images,
        "ss_num_validation_images": 0,
        "ss_num_reg_images": 0,
        "ss_num_batches_per_epoch": facts.batches_per_epoch,
        "ss_datasets": [dataset],
        "ss_tag_frequency": dataset["tag_frequency"],
        "ss_dataset_dirs": {folder.name: directory(folder) for folder in folders},
    }


def _folder_mode(recipe: Recipe, facts: RunFacts, buckets: dict[str, object]) -> dict[str, object]:
    """The keys that sd-scripts writes for plain folders only, and that readers look at."""
    sides = [side for width, height, _ in facts.buckets for side in (width, height)]
    return {
        "ss_batch_size_per_device": recipe.training.batch_size,
        "ss_total_batch_size": recipe.training.batch_size,
        "ss_resolution": f"({facts.resolution}, {facts.resolution})",
        "ss_color_aug": False,
        "ss_flip_aug": False,
        "ss_random_crop": False,
        "ss_shuffle_caption": False,
        "ss_enable_bucket": recipe.dataset.buckets,
        "ss_bucket_no_upscale": not recipe.dataset.bucket_upscale,
        "ss_min_bucket_reso": min(sides),
        "ss_max_bucket_reso": max(sides),
        "ss_keep_tokens": 0,
        "ss_reg_dataset_dirs": {},
        "ss_bucket_info": buckets,
    }


def _modelspec(recipe: Recipe, facts: RunFacts) -> dict[str, object]:
    names = _spec(facts)
    spec = {
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": names.architecture,
        "modelspec.implementation": names.implementation,
        "modelspec.implementation_version": f"{IMPLEMENTATION}/{facts.version}",
        "modelspec.title": facts.output_name,
        "modelspec.resolution": f"{facts.resolution}x{facts.resolution}",
        "modelspec.prediction_type": facts.prediction,
        "modelspec.encoder_layer": _clip_skip(recipe, facts),
        "modelspec.trigger_phrase": recipe.output.trigger,
        "modelspec.description": recipe.output.comment,
    }
    return {key: value for key, value in spec.items() if value not in {"", None}}


def _spec(facts: RunFacts) -> _Spec:
    return _SPECS[facts.family, facts.prediction]


def _clip_skip(recipe: Recipe, facts: RunFacts) -> int | None:
    return recipe.base.clip_skip if facts.family in _WITH_CLIP_SKIP else None


def _text(value: object) -> str:
    """sd-scripts' spelling: JSON for lists and mappings, Python's for everything else."""
    return json.dumps(value) if isinstance(value, dict | list) else legible(str(value))
