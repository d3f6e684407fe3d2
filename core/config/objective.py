"""Settings of what is learnt from a noisy picture."""

from dataclasses import dataclass
from typing import ClassVar

from .fields import Limits, Text, check_fields, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveConfig:
    """Weights of the loss and additions to the noise."""

    TITLE: ClassVar = Text("Objective", "训练目标")

    min_snr_gamma: float = setting(
        5.0,
        Text("Min-SNR gamma", "Min-SNR gamma"),
        Text(
            "Limits the weight of nearly clean pictures, which otherwise drown what matters; "
            "learning becomes faster and steadier. 5 is the authors' value; lower is stronger; 0 "
            "is off. Losses with different values cannot be compared.",
            "限制近乎无噪声样本的权重，以免它们淹没重要的信息；学习更快更稳。5 为论文推荐值；越小"
            "作用越强；0 为关闭。不同取值的损失不能互相比较。",
        ),
        Limits(0, 100),
    )
    noise_offset: float = setting(
        0.0,
        Text("Noise offset", "噪声偏移"),
        Text(
            "Shifts the noise of each picture as a whole, so that very dark and very bright "
            "pictures can be learnt. 0.03 to 0.1 where the dataset needs it; more makes "
            "everything too contrasted. Not together with zero terminal SNR.",
            "对每张图的噪声整体偏移，使很暗或很亮的画面也能学会。需要时取 0.03–0.1；过大会使画面对"
            "比过强。不要与零终端信噪比同时使用。",
        ),
        Limits(0, 1),
    )

    def __post_init__(self) -> None:
        check_fields(self)
