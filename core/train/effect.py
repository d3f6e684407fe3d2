"""The proof that a written network works."""

from pathlib import Path

import torch

from ..errors import FileError
from ..models.base_model import BaseModel
from ..models.networks import open_network
from ..randomness import generator

_PROOF_SIDE = 8  # latent pixels
_PROOF_TIMESTEP = 500


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
