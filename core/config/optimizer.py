"""Settings of the optimizer and of the learning rate's course."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from .fields import Limits, Text, check_fields, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """How the network's weights follow their gradients."""

    TITLE: ClassVar = Text("Optimizer", "优化器")

    name: Literal["adamw"] = setting(
        "adamw",
        Text("Optimizer", "优化器"),
        Text(
            "The rule that turns gradients into changes. AdamW is robust and needs no further "
            "tuning.",
            "把梯度变成改变量的规则。AdamW 稳健，无需额外调整。",
        ),
        choices={"adamw": Text("AdamW", "AdamW")},
    )
    unet_lr: float = setting(
        1e-4,
        Text("U-Net learning rate", "U-Net 学习率"),
        Text(
            "Size of one step of the U-Net's network. 0.0001 suits alpha equal to rank. Too high: "
            "burnt colours, broken shapes, the same picture every time; too low: nothing is "
            "learnt. Halve or double it, do not creep. Values above 0.01 break training.",
            "U-Net 网络每一步的幅度。alpha 等于秩时 0.0001 合适。过高：颜色过曝、形体崩坏、张张雷"
            "同；过低：什么也学不到。调整时减半或加倍，不要微调。超过 0.01 训练会崩溃。",
        ),
        Limits(0, 1),
    )
    text_encoder_lr: float = setting(
        5e-5,
        Text("Text encoder learning rate", "文本编码器学习率"),
        Text(
            "Size of one step of the text encoder's network, usually half the U-Net's or less. Too "
            "high: the trigger word takes over the picture and other words stop working.",
            "文本编码器网络每一步的幅度，通常不超过 U-Net 的一半。过高：触发词支配整个画面，其他词"
            "失效。",
        ),
        Limits(0, 1),
    )
    weight_decay: float = setting(
        0.01,
        Text("Weight decay", "权重衰减"),
        Text(
            "Pulls the weights towards zero, multiplied by the learning rate. 0.01 is mild; 0.1 "
            "tames a small dataset that overfits; 0 is off.",
            "把权重拉向零的力度（乘以学习率）。0.01 较温和；小数据集过拟合时可用 0.1；0 为关闭。",
        ),
        Limits(0, 10),
    )
    max_grad_norm: float = setting(
        1.0,
        Text("Gradient clipping", "梯度裁剪"),
        Text(
            "Longest gradient, over U-Net and text encoder together, that a step may follow; "
            "longer ones are shortened. It keeps one odd picture from spoiling the network. 0 is "
            "off.",
            "一步所能采用的最大梯度长度（U-Net 与文本编码器合计），更长的会被缩短，防止个别异常图"
            "片毁掉网络。0 为关闭。",
        ),
        Limits(0),
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class LrScheduleConfig:
    """How the learning rates rise and fall over the training; a function of the step alone."""

    TITLE: ClassVar = Text("Learning rate schedule", "学习率调度")

    kind: Literal["constant", "cosine", "linear"] = setting(
        "cosine",
        Text("Course", "曲线"),
        Text(
            "Cosine and linear fall to zero at the end, which settles fine detail; constant keeps "
            "the rate, for trainings that are stopped by eye.",
            "余弦和线性在结束时降到零，有利于细节收敛；恒定保持不变，适合凭肉眼决定何时停止的训"
            "练。",
        ),
        choices={
            "constant": Text("Constant", "恒定"),
            "cosine": Text("Cosine", "余弦"),
            "linear": Text("Linear", "线性"),
        },
    )
    warmup: float = setting(
        0.05,
        Text("Warm-up", "预热"),
        Text(
            "Share of all steps in which the rate rises from zero. A short warm-up keeps the first "
            "steps, taken before the optimizer knows the gradients, from doing harm.",
            "学习率从零上升所占的步数比例。最初几步优化器还不了解梯度，短暂预热可避免造成损害。",
        ),
        Limits(0, 0.5, "share"),
    )

    def __post_init__(self) -> None:
        check_fields(self)
