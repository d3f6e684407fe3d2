"""The training core: it imports no host and no user interface."""
