"""The dataset report as text: what is there, what becomes of it, what to look at."""

import unicodedata
from collections import Counter
from collections.abc import Sequence

from ..config.training import TrainingConfig
from ..events import Finding
from .batches import batches_per_epoch, naive_steps, steps_per_epoch, total_steps
from .buckets import Bucket, BucketPlan
from .fingerprint import dataset_hash
from .items import Dataset, ImageItem
from .listing import in_words, legible
from .sheet import report_sheet

__all__ = ["dataset_hash", "report_sheet", "report_text"]

MOST_FINDINGS = 40
MOST_BUCKETS = 40
MOST_TAGS = 12
NAME_WIDTH = 40


def report_text(dataset: Dataset, plan: BucketPlan, training: TrainingConfig) -> str:
    """Tables of folders, sizes, buckets, steps and findings, in lines of plain text."""
    parts = [
        [f"Dataset {dataset.root}", *_totals(dataset.items)],
        ["Folders", *_folders(dataset.items)],
        ["Captions", *_captions(dataset.items)],
        [f"Buckets ({_rules(plan)})", *_buckets(dataset.items, plan, training.batch_size)],
        ["Steps", *_steps(dataset.items, plan, training)],
        ["Findings", *_findings((*dataset.findings, *plan.findings))],
    ]
    return legible(
        "\n\n".join("\n".join([head, *(f"  {line}" for line in body)]) for head, *body in parts)
    )


def table(rows: Sequence[Sequence[str]], left: int = 1) -> list[str]:
    """Lines with aligned columns: the first `left` to the left, numbers to the right."""
    widths = [max(map(text_width, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            gap = " " * (width - text_width(cell))
            cells.append(cell + gap if place < left else gap + cell)
        lines.append("  ".join(cells).rstrip())
    return lines


def text_width(text: str) -> int:
    """Columns that a terminal takes for `text`: Chinese letters take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    marks = sum(unicodedata.combining(letter) > 0 for letter in text)
    return len(text) + wide - marks


def shortened(text: str, width: int) -> str:
    """`text` in at most `width` columns, with an ellipsis where it was cut."""
    if text_width(text) <= width:
        return text
    while text and text_width(text) > width - 1:
        text = text[:-1]
    return text.rstrip() + "…"


def _totals(items: Sequence[ImageItem]) -> list[str]:
    seen = sum(item.repeats for item in items)
    return [f"{in_words(len(items))}, seen {seen:,} times in an epoch by their repeats"]


def _folders(items: Sequence[ImageItem]) -> list[str]:
    rows = [("folder", "repeats", "pictures", "with caption", "seen an epoch")]
    groups: dict[str, list[ImageItem]] = {}
    for item in items:
        groups.setdefault(item.path.parent.name, []).append(item)
    for name, group in groups.items():
        own = sum(item.has_caption for item in group)
        seen = sum(item.repeats for item in group)
        rows.append(
            (
                shortened(name, NAME_WIDTH),
                str(group[0].repeats),
                f"{len(group):,}",
                f"{own:,}",
                f"{seen:,}",
            )
        )
    return table(rows)


def _captions(items: Sequence[ImageItem]) -> list[str]:
    captions = [item.caption for item in items if item.has_caption]
    if not captions:
        return ["none: every picture is trained with its folder's name"]
    lengths = sorted(len(caption.split()) for caption in captions)
    tags = Counter(
        tag for caption in captions for tag in {part.strip() for part in caption.split(",")} if tag
    )
    most = sorted(tags.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_TAGS]
    rows = [(shortened(tag, NAME_WIDTH), f"{count:,}") for tag, count in most]
    return [
        f"{len(captions):,} of {len(items):,}; {lengths[0]} to {lengths[-1]} words, "
        f"{lengths[len(lengths) // 2]} in the middle",
        *table([("between commas", "pictures"), *rows]),
    ]


def _rules(plan: BucketPlan) -> str:
    if not plan.rules.buckets:
        return f"resolution {plan.resolution}, all cropped to squares"
    small = "enlarged" if plan.rules.upscale else "kept small"
    return f"resolution {plan.resolution}, step {plan.rules.step}, small pictures {small}"


def _buckets(items: Sequence[ImageItem], plan: BucketPlan, batch_size: int) -> list[str]:
    head = ("size", "pictures", "seen an epoch", "batches", "mean crop", "worst crop")
    rows = [_bucket_row(items, bucket, batch_size) for bucket in plan.buckets[:MOST_BUCKETS]]
    more = len(plan.buckets) - MOST_BUCKETS
    sizes = [(item.width * item.height, f"{item.width} x {item.height}") for item in items]
    return [
        f"pictures of {min(sizes)[1]} to {max(sizes)[1]} pixels in "
        f"{in_words(len(plan.buckets), 'bucket')}",
        *table([head, *rows]),
        *([f"and {more} more buckets"] if more > 0 else []),
    ]


def _bucket_row(
    items: Sequence[ImageItem], bucket: Bucket, batch_size: int
) -> tuple[str, str, str, str, str, str]:
    seen = sum(items[fit.item].repeats for fit in bucket.fits)
    losses = [fit.crop_loss for fit in bucket.fits]
    return (
        f"{bucket.width} x {bucket.height}",
        f"{len(bucket.fits):,}",
        f"{seen:,}",
        f"{-(-seen // batch_size):,}",
        f"{sum(losses) / len(losses):.1%}",
        f"{max(losses):.1%}",
    )


def _steps(items: Sequence[ImageItem], plan: BucketPlan, training: TrainingConfig) -> list[str]:
    batches = batches_per_epoch(plan, items, training.batch_size)
    an_epoch = steps_per_epoch(batches, training.gradient_accumulation)
    true, naive = total_steps(plan, items, training), naive_steps(items, training)
    added = training.gradient_accumulation
    lines = [
        f"{batches:,} batches of at most {training.batch_size} an epoch"
        + (f", {added} added up to a step: {an_epoch:,} steps" if added > 1 else "")
    ]
    if training.max_steps > 0:
        epochs = true / an_epoch
        return [*lines, f"{true:,} steps as set by training.max_steps: {epochs:.1f} epochs"]
    lines.append(f"{true:,} steps = {training.epochs:,} epochs x {an_epoch:,}")
    if naive != true:
        lines.append(
            f"pictures x repeats x epochs / batch would say {naive:,}: it forgets that every "
            "bucket and epoch ends with a smaller batch"
        )
    return lines


def _findings(findings: Sequence[Finding]) -> list[str]:
    if not findings:
        return ["none"]
    ranks = {"error": 0, "warning": 1, "info": 2}
    ordered = sorted(findings, key=lambda finding: ranks[finding.level])
    rows = [(finding.level, finding.text) for finding in ordered[:MOST_FINDINGS]]
    more = len(findings) - MOST_FINDINGS
    return [*table(rows, left=2), *([f"and {more} more"] if more > 0 else [])]
