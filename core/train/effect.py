"""Networks from files, and the proof that a written one works."""

from pathlib import Path

import torch

from ..adapters.lora import AdapterWeights
from ..adapters.network import Network
from ..adapters.targets import find_targets
from ..errors import ConfigError, FileError
from ..files.names import paths_by_key
from ..files.network_file import NetworkFile, read_network
from ..models.base_model import BaseModel
from ..models.families import SD1, SD2, SDXL
from ..randomness import generator

_VERSIONS = {"sd_v1": SD1, "sd_v2": SD2, "sdxl_": SDXL}  # of sd-scripts' metadata
_PROOF_SIDE = 8  # latent pixels
_PROOF_TIMESTEP = 500


def open_network(base: BaseModel, path: Path) -> Network:
    """A network from a LoRA file, ready to be attached to `base`. Raises FileError, ConfigError."""
    file = read_network(path)
    targets = find_targets(base.parts)
    paths = paths_by_key(targets, base.family.key)
    unknown = sorted(set(file.modules) - set(paths))
    if unknown:
        raise FileError(
            f"{path} does not fit {base.path.name}: {len(unknown)} of its {len(file.modules)} "
            f"modules are not in this base model ({', '.join(unknown[:3])}); {_remedy(file, base)}"
        )
    weights = {paths[key]: AdapterWeights(*module) for key, module in file.modules.items()}
    if len(weights) < len(file.modules):
        raise FileError(
            f"{path} adapts {len(file.modules) - len(weights)} layers twice, by two spellings of "
            "their names: it is no whole LoRA; make it anew with the tool that wrote it"
        )
    try:
        return Network.from_weights(targets, weights)
    except ConfigError as error:
        raise FileError(
            f"{path} does not fit {base.path.name} ({error}); {_remedy(file, base)}"
        ) from error


def _remedy(file: NetworkFile, base: BaseModel) -> str:
    version = file.metadata.get("ss_base_model_version", "")
    family = next((own for start, own in _VERSIONS.items() if version.startswith(start)), None)
    if family is None and any(key.startswith("lora_te2_") for key in file.modules):
        family = SDXL
    if family is None or family.key == base.family.key:
        return "give the checkpoint that it was trained on"
    return (
        f"it was trained for {family.title}, and this is {base.family.title}: give a checkpoint of "
        "its own family"
    )


def require_effect(base: BaseModel, path: Path) -> None:
    """Prove that the file at `path`, loaded anew, changes what `base` answers. Raises FileError."""
    network = open_network(base, path)
    before = _answer(base)
    with network.attached(base.parts):
        after = _answer(base)
    if not bool(torch.isfinite(after).all()):
        raise FileError(
            "with the trained network the base model answers with numbers that are not finite: "
            "train with a lower learning rate, or set output.precision to bf16 or fp32"
        )
    if torch.equal(before, after):
        raise FileError(
            "the trained network changes nothing: train for more steps, raise the learning rate, "
            "or set output.precision to fp32"
        )


@torch.no_grad()
def _answer(base: BaseModel) -> torch.Tensor:
    chance = generator(0, "proof")
    latents = torch.randn(1, 4, _PROOF_SIDE, _PROOF_SIDE, generator=chance)
    timestep = torch.tensor([_PROOF_TIMESTEP], device=base.device)
    return base.predict(latents.to(base.device), timestep, base.encode_text([""]))
