"""Pictures and captions: folders, buckets, batches, pixels, caches, the dataset report."""
