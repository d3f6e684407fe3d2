"""A hash that two datasets share exactly when they train alike."""

import hashlib
import json

from .buckets import BucketPlan
from .items import Dataset


def dataset_hash(dataset: Dataset, plan: BucketPlan) -> str:
    """SHA-256, hexadecimal, of all that reaches the training: bytes, captions, repeats, crops.

    It knows the order of the pictures, which their batches depend on, but no path or name.
    """
    pictures = [(item.sha256, item.caption, item.repeats) for item in dataset.items]
    buckets = [
        (
            (bucket.width, bucket.height),
            [(fit.item, fit.resized, fit.crop_left, fit.crop_top) for fit in bucket.fits],
        )
        for bucket in plan.buckets
    ]
    words = json.dumps([pictures, buckets], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(words.encode()).hexdigest()
