"""Chance as a function of (seed, purpose, position), never of the process's own streams."""

import hashlib
import json

import torch


def generator(
    seed: int, purpose: str, *position: int, device: str | torch.device = "cpu"
) -> torch.Generator:
    """Return a fresh generator that depends on nothing but its arguments, on any platform.

    `purpose` says what is drawn ("noise", "shuffle", ...) and `position` where (epoch, step,
    image, ...), so that resuming, previews or another batch size never shift what is drawn
    elsewhere. torch's CPU generator keeps 32 bits of its seed: among some 65,000 positions two
    may share a stream, which training does not notice.
    """
    words = json.dumps([int(seed), purpose, *(int(part) for part in position)])
    digest = hashlib.sha256(words.encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:8], "big") >> 1)
