"""The grid of block weights as one picture."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from ..core.session import BlockWeights, graphwork
from .block_drawing import Study


def block_sheet(
    study: Study,
    columns: Sequence[BlockWeights],
    pictures: Sequence[Sequence[Image.Image]],
) -> Image.Image:
    """Pictures by column and row, each with its difference to the base model's."""
    sampling = study.sampling
    rows = range(len(study.prompts))
    facts = [
        f"{sampling.sampler} {sampling.scheduler}",
        f"{sampling.steps} steps",
        f"cfg {sampling.cfg:g}",
        f"{sampling.width}x{sampling.height} pixels",
        f"strength {study.strength_model:g} / {study.strength_clip:g}",
    ]
    return graphwork.comparison_sheet(
        title=f"Block weights of {study.lora.name}",
        columns=[weights.label for weights in columns],
        rows=[(study.prompts[row][0], f"seed {sampling.seed + row}") for row in rows],
        cells=[[column[row] for column in pictures[1:]] for row in rows],
        references=[pictures[0][row] for row in rows],
        footer=" | ".join(facts),
    )
