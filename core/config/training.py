"""Settings of the loop: how long, how many pictures at a time, which chance."""

from dataclasses import dataclass
from typing import ClassVar

from .fields import Limits, Text, check_fields, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """Length of the training and size of its batches."""

    TITLE: ClassVar = Text("Training", "训练")

    epochs: int = setting(
        10,
        Text("Epochs", "轮数"),
        Text(
            "How often the whole dataset, repeats included, is gone through. Steps = epochs x "
            "batches per epoch; the plan shows the true number before anything starts. 1000 to "
            "2000 steps suit most characters; too many and the LoRA draws only the training "
            "pictures.",
            "整个数据集（含重复）要看多少遍。步数 = 轮数 × 每轮批次数；开始之前计划会显示真实步数。"
            "多数人物 1000–2000 步合适；太多则 LoRA 只会画训练图。",
        ),
        Limits(1, 1_000_000, "epochs"),
    )
    max_steps: int = setting(
        0,
        Text("Number of steps", "总步数"),
        Text(
            "Train exactly this many steps, whatever the epochs say; 0 counts by epochs.",
            "不管轮数，正好训练这么多步；0 表示按轮数计算。",
        ),
        Limits(1, 1_000_000_000, "steps", zero=Text("counted by epochs", "按轮数计算")),
    )
    batch_size: int = setting(
        1,
        Text("Batch size", "批大小"),
        Text(
            "Pictures in one pass. Larger is steadier and quicker per picture but needs more "
            "memory, and makes fewer steps of the same epochs: raise the epochs with it. Any "
            "number works, not only powers of two.",
            "一次处理的图片数。更大则更稳、单张更快，但更占显存，且同样轮数的步数变少：请相应增加"
            "轮数。任何数字都可以，不限于 2 的幂。",
        ),
        Limits(1, 1024, "images"),
    )
    gradient_accumulation: int = setting(
        1,
        Text("Gradient accumulation", "梯度累积"),
        Text(
            "Batches that are added up to one step: the effect of a larger batch without its "
            "memory, at the same time per picture.",
            "累积多少个批次再更新一步：不增加显存即可获得大批次的效果，单张图片耗时不变。",
        ),
        Limits(1, 1024),
    )
    seed: int = setting(
        42,
        Text("Seed", "随机种子"),
        Text(
            "Start of all chance: first weights, order, noise. The same recipe with the same seed "
            "trains the same network; another seed shows how much was luck.",
            "一切随机性的起点：初始权重、顺序、噪声。相同配方与种子训练出相同的网络；换一个种子可"
            "以看出运气占多少。",
        ),
        Limits(0, 2**64 - 1),
    )

    def __post_init__(self) -> None:
        check_fields(self)
