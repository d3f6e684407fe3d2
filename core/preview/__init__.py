"""Pictures drawn on the way and at the end: samples, block-weight grids, the loss curve."""
