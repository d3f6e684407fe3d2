"""The tab's pages: Dataset, Train, Blocks, Files."""
