"""What a checkpoint is, before any of its weights is read."""

from __future__ import annotations

from pathlib import Path

from ..config.base import BaseConfig
from .base_model import Outline, outline_checkpoint, resolve_facts
from .sources import open_source


def outline_file(path: Path, config: BaseConfig) -> Outline:
    """Outline the checkpoint at `path`. Raises CheckpointError, ConfigError."""
    opened = open_source(path, config.vae)
    facts = resolve_facts(opened, config.prediction, config.zero_terminal_snr)
    return outline_checkpoint(opened, facts)
