"""The recipe: settings as frozen dataclasses that carry their words, limits and choices."""

from .base import EMBEDDED, BaseConfig
from .dataset import DatasetConfig
from .fields import Setting, Text, describe, section_name
from .mapping import from_mapping, to_mapping
from .memory import MemoryConfig
from .network import NetworkConfig
from .objective import ObjectiveConfig
from .optimizer import LrScheduleConfig, OptimizerConfig
from .output import OutputConfig
from .preview import PreviewConfig
from .recipe import SCHEMA, Recipe, sections
from .training import TrainingConfig

__all__ = [
    "EMBEDDED",
    "SCHEMA",
    "BaseConfig",
    "DatasetConfig",
    "LrScheduleConfig",
    "MemoryConfig",
    "NetworkConfig",
    "ObjectiveConfig",
    "OptimizerConfig",
    "OutputConfig",
    "PreviewConfig",
    "Recipe",
    "Setting",
    "Text",
    "TrainingConfig",
    "describe",
    "from_mapping",
    "section_name",
    "sections",
    "to_mapping",
]
