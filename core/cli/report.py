"""Show what a folder of pictures will train as: captions, buckets, crops, true steps."""

import argparse
from pathlib import Path

from ..config.recipe import DatasetConfig, Recipe, TrainingConfig
from ..data.report import report_sheet, report_text
from ..files.images import write_png
from ..planner import lay_out_dataset
from .console import Console, say


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of `lora-loop report`."""
    defaults = TrainingConfig()
    parser.add_argument("dataset", help="folder of pictures, or the folder of N_name folders")
    parser.add_argument("--resolution", type=int, default=512, help="side in pixels (512)")
    parser.add_argument("--bucket-step", type=int, default=0, help="multiple of the bucket sides")
    parser.add_argument("--batch-size", type=int, default=defaults.batch_size)
    parser.add_argument("--epochs", type=int, default=defaults.epochs)
    parser.add_argument("--gradient-accumulation", type=int, default=1)
    parser.add_argument("--caption-extension", default=".txt")
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet to this PNG file")


def run(options: argparse.Namespace) -> int:
    """Print the report and write the sheet."""
    recipe = Recipe(
        dataset=DatasetConfig(
            folder=options.dataset,
            resolution=options.resolution,
            bucket_step=options.bucket_step,
            caption_extension=options.caption_extension,
        ),
        training=TrainingConfig(
            epochs=options.epochs,
            batch_size=options.batch_size,
            gradient_accumulation=options.gradient_accumulation,
        ),
    )
    console = Console()
    try:
        pictures = lay_out_dataset(recipe, options.resolution, console)
    finally:
        console.close()
    say(report_text(pictures.dataset, pictures.buckets, recipe.training))
    if options.sheet is not None:
        write_png(options.sheet, report_sheet(pictures.dataset, pictures.buckets))
        say(f"wrote {options.sheet}")
    return 0
