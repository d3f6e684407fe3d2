"""The settings of a training, read back from the metadata of the file that it made."""

import json
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ..core.config import Recipe, from_mapping, to_mapping
from ..core.errors import ConfigError


class _Source(NamedTuple):
    """Where a setting stands in a file. Words are sd-scripts', which most trainers write."""

    setting: str
    read: Callable[[str], Any]


def _side(text: str) -> int:
    """The side of "(512, 512)" or "512x512"."""
    return int(text.strip("( )").replace("x", ",").split(",")[0])


def _prediction(version: str) -> str:
    return "v" if version.endswith("_v") else "auto"


def _schedule(kind: str) -> str:
    known = {"cosine": "cosine", "linear": "linear", "constant_with_warmup": "constant"}
    return known.get(kind, "constant")


_SOURCES = {
    "ss_network_dim": _Source("network.rank", int),
    "ss_network_alpha": _Source("network.alpha", float),
    "ss_unet_lr": _Source("optimizer.unet_lr", float),
    "ss_text_encoder_lr": _Source("optimizer.text_encoder_lr", float),
    "ss_max_grad_norm": _Source("optimizer.max_grad_norm", float),
    "ss_lr_scheduler": _Source("lr_schedule.kind", _schedule),
    "ss_min_snr_gamma": _Source("objective.min_snr_gamma", float),
    "ss_noise_offset": _Source("objective.noise_offset", float),
    "ss_num_epochs": _Source("training.epochs", int),
    "ss_batch_size_per_device": _Source("training.batch_size", int),
    "ss_gradient_accumulation_steps": _Source("training.gradient_accumulation", int),
    "ss_seed": _Source("training.seed", int),
    "ss_resolution": _Source("dataset.resolution", _side),
    "ss_clip_skip": _Source("base.clip_skip", int),
    "ss_base_model_version": _Source("base.prediction", _prediction),
    "ss_gradient_checkpointing": _Source("memory.gradient_checkpointing", lambda t: t == "True"),
    "modelspec.trigger_phrase": _Source("output.trigger", str),
}
# Where a file says "None" for a part's rate, that part was not trained.
_PARTS = {"ss_unet_lr": "network.unet", "ss_text_encoder_lr": "network.text_encoder"}


def recipe_of(metadata: Mapping[str, str], current: Recipe) -> Recipe:
    """`current` with all settings that a file's metadata names, whichever program wrote it.

    Raises ConfigError where it names none, or values that this program does not train with.
    """
    mapping = to_mapping(current)
    found = 0
    for key, source in _SOURCES.items():
        text = metadata.get(key, "None")
        if key in _PARTS and key in metadata:
            _put(mapping, _PARTS[key], text != "None")
        if text in ("None", ""):
            continue
        try:
            _put(mapping, source.setting, source.read(text))
        except ValueError as error:
            raise ConfigError(
                f"the file's {key} is {text!r}, from which {source.setting} can't be read: {error}"
            ) from error
        found += 1
    if not found:
        raise ConfigError(
            "the file does not say how it was trained: its metadata holds no settings"
        )
    _put(mapping, "training.max_steps", _steps(metadata))
    return from_mapping(type(current), mapping)


def _put(mapping: dict[str, Any], name: str, value: Any) -> None:
    section, _, setting = name.partition(".")
    mapping[section][setting] = value


def _steps(metadata: Mapping[str, str]) -> int:
    """The number of steps, where it was set; kohya's tools always set one, beside the epochs."""
    try:
        counted = int(metadata["ss_num_epochs"]) * int(metadata["ss_num_batches_per_epoch"])
        whole = int(metadata["ss_max_train_steps"])
    except (KeyError, ValueError):
        return 0
    added = json.loads(metadata.get("ss_gradient_accumulation_steps", "1")) or 1
    return 0 if whole * added in range(counted - added, counted + added + 1) else whole
