"""All nodes by their ids, with their names in both languages."""

from __future__ import annotations

from ..core.config import Text
from .analyze_nodes import AnalyzeBlocks
from .block_nodes import ApplyBlockWeights, BlockWeightPreview, GridAxes
from .caption_nodes import CaptionDataset, CaptionerOptions
from .dataset_nodes import LoadDataset, PrepareDataset
from .keep_nodes import BlockWeightTag, ExtractLoRA, FoldLoRA, MergeLoRAs, ResizeLoRA
from .lora_nodes import BakeLoRA, LoadLoRAForTest, SaveLoRA
from .option_nodes import TITLES, option_classes
from .recipe_nodes import LoadRecipe, ResumeTraining, SaveRecipe
from .study_nodes import AnalyzeBlocksInPictures, SuggestBlockWeights
from .train_node import TrainLoRA

PREFIX = "LoraLoop"

_NODES: tuple[tuple[type, Text], ...] = (
    (LoadDataset, Text("Load Dataset", "加载数据集")),
    (CaptionDataset, Text("Caption Dataset", "标注数据集")),
    (PrepareDataset, Text("Prepare Dataset", "整理数据集")),
    (TrainLoRA, Text("Train LoRA", "训练 LoRA")),
    (SaveLoRA, Text("Save LoRA", "保存 LoRA")),
    (BlockWeightPreview, Text("Block Weight Preview", "分层权重预览")),
    (GridAxes, Text("Grid Axes", "网格坐标轴")),
    (LoadLoRAForTest, Text("Load LoRA for Test", "加载待测 LoRA")),
    (ApplyBlockWeights, Text("Apply Block Weights", "应用分层权重")),
    (AnalyzeBlocks, Text("Analyze Blocks", "分析各层")),
    (AnalyzeBlocksInPictures, Text("Analyze Blocks in Pictures", "在画面中分析各层")),
    (SuggestBlockWeights, Text("Suggest Block Weights", "建议分层权重")),
    (BakeLoRA, Text("Bake LoRA", "固化 LoRA")),
    (MergeLoRAs, Text("Merge LoRAs", "合并 LoRA")),
    (ResizeLoRA, Text("Resize LoRA", "调整 LoRA 的秩")),
    (FoldLoRA, Text("Fold LoRA into Checkpoint", "将 LoRA 并入底模")),
    (ExtractLoRA, Text("Extract LoRA", "提取 LoRA")),
    (BlockWeightTag, Text("Block Weight Tag", "分层权重标签")),
    (LoadRecipe, Text("Load Recipe", "加载配方")),
    (SaveRecipe, Text("Save Recipe", "保存配方")),
    (ResumeTraining, Text("Resume Training", "继续训练")),
    (CaptionerOptions, Text("Captioner Options", "标注器选项")),
)
_MARK = " (LoRA Loop)"


def node_classes() -> dict[str, type]:
    """ComfyUI's NODE_CLASS_MAPPINGS."""
    named = {PREFIX + node.__name__: node for node, _ in _NODES}
    return {**named, **{PREFIX + node.__name__: node for _, node in option_classes()}}


def titles() -> dict[str, Text]:
    """The name of every node, without the mark of whose it is."""
    named = {PREFIX + node.__name__: text for node, text in _NODES}
    for group, node in option_classes():
        plain = group.replace("_", " ").capitalize()
        named[PREFIX + node.__name__] = TITLES.get(group, Text(plain, plain))
    return named


def display_names() -> dict[str, str]:
    """ComfyUI's NODE_DISPLAY_NAME_MAPPINGS."""
    return {name: text.en + _MARK for name, text in titles().items()}
