"""Where the pictures of a training go, beside its network file, and writing them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from .events import OnEvent, Saved, ignore
from .files.atomic import write_bytes
from .files.images import write_png
from .preview.grid import Grid
from .preview.page import grid_page
from .preview.progress_plot import loss_plot
from .train.job import Trained

__all__ = [
    "grid_path",
    "loss_plot",
    "loss_plot_path",
    "samples_folder",
    "side_by_side",
    "write_grid",
    "write_grid_page",
    "write_loss_plot",
]


def grid_path(network: Path) -> Path:
    """Where the grid of a network file goes: beside it."""
    return network.with_name(f"{network.stem}-grid.png")


def loss_plot_path(network: Path) -> Path:
    """Where the loss plot of a network file goes: beside it."""
    return network.with_name(f"{network.stem}-loss.png")


def samples_folder(network: Path) -> Path:
    """Where the pictures go that are drawn while the network is trained."""
    return network.with_name(f"{network.stem}-samples")


def write_grid(grid: Grid, path: Path, on_event: OnEvent = ignore, *, overwrite: bool) -> None:
    """Write a grid as PNG with everything that is needed to repeat it."""
    write_bytes(path, grid.png(), overwrite=overwrite)
    on_event(Saved(path=path, kind="grid"))


def write_grid_page(grid: Grid, path: Path, on_event: OnEvent = ignore, *, overwrite: bool) -> None:
    """Write a grid as one HTML file that compares its cells, in any browser and offline."""
    write_bytes(path, grid_page(grid).encode(), overwrite=overwrite)
    on_event(Saved(path=path, kind="page"))


def write_loss_plot(trained: Trained, network: Path, on_event: OnEvent = ignore) -> Path:
    """Plot the losses of a run beside its network file."""
    history = trained.history
    path = loss_plot_path(network)
    steps = range(1, len(history.losses) + 1)
    write_png(path, loss_plot(steps, history.losses, history.lrs), overwrite=True)
    on_event(Saved(path=path, kind="plot"))
    return path


def side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """One picture of several of equal size, from left to right."""
    width, height = pictures[0].size
    row = Image.new("RGB", (width * len(pictures), height))
    for place, picture in enumerate(pictures):
        row.paste(picture, (place * width, 0))
    return row
