"""Settings that trade memory against time; they do not change what is learnt."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from .fields import Text, check_fields, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig:
    """Number formats and memory."""

    TITLE: ClassVar = Text("Memory and precision", "显存与精度")

    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting(
        "auto",
        Text("Precision", "计算精度"),
        Text(
            "Number format of the base model while training; the LoRA itself is always kept in "
            "fp32. Auto takes what the device does best. bf16 needs an NVIDIA RTX 30 or newer; "
            "fp16 is for older cards and may overflow; fp32 is exact and needs twice the memory.",
            "训练时底模的数值格式；LoRA 自身始终以 fp32 保存。“自动”选择设备最擅长的格式。"
            "bf16 需要 NVIDIA RTX 30 系或更新；fp16 适合旧显卡，可能溢出；fp32 精确，显存加倍。",
        ),
        choices={
            "auto": Text("Auto", "自动"),
            "fp32": Text("fp32", "fp32"),
            "bf16": Text("bf16", "bf16"),
            "fp16": Text("fp16", "fp16"),
        },
    )
    gradient_checkpointing: bool = setting(
        False,
        Text("Gradient checkpointing", "梯度检查点"),
        Text(
            "Compute parts of the model twice instead of keeping them: much less memory, about a "
            "fifth slower, the same result. Switch it on when memory runs out.",
            "部分计算做两遍而不保存中间结果：显存大减，速度慢约五分之一，结果相同。显存不足时开"
            "启。",
        ),
    )
    cuda_graphs: bool = setting(
        True,
        Text("CUDA graphs", "CUDA 图"),
        Text(
            "On an NVIDIA GPU, record a step of each picture size once and replay it as a whole: "
            "the GPU no longer waits for Python, which can make small batches several times "
            "faster, with the same result but for rounding. Without effect together with gradient "
            "checkpointing, and in ComfyUI unless that was started with --disable-cuda-malloc. Off "
            "where memory is scarce and pictures have many sizes.",
            "使用 NVIDIA GPU 时，每种图片尺寸的一步只录制一次，之后整体重放：GPU 不再等待 "
            "Python，小批量时最多可快数倍，除舍入误差外结果相同。与梯度检查点同时开启时不起作用；"
            "在 ComfyUI 中须以 --disable-cuda-malloc 启动才起作用。显存紧张且图片尺寸很多时关闭。",
        ),
    )
    keep_memory: bool = setting(
        True,
        Text("Keep freed memory", "保留已释放的内存"),
        Text(
            "On Linux and on the CPU, keep memory that a step has freed for the next one instead "
            "of returning it to the system: up to 1.3 times faster. Off where other programs need "
            "it at once.",
            "在 Linux 上用 CPU 训练时，把一步释放的内存留给下一步而不归还系统：最多快 1.3 倍。"
            "若其他程序急需内存则关闭。",
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self)
