"""Settings of the network: what is trained, and how large it is."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..errors import ConfigError
from .fields import Limits, Text, check_fields, setting


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkConfig:
    """Kind and size of the network, and the parts of the base model that it changes."""

    TITLE: ClassVar = Text("Network", "网络")

    algo: Literal["lora"] = setting(
        "lora",
        Text("Algorithm", "算法"),
        Text(
            "How a layer's change is written down. LoRA, the product of two thin matrices, is "
            "loaded by every image program.",
            "层的改变量如何表示。LoRA 是两个细长矩阵的乘积，所有绘图程序都能加载。",
        ),
        choices={"lora": Text("LoRA", "LoRA")},
    )
    rank: int = setting(
        16,
        Text("Rank", "秩（维度）"),
        Text(
            "Width of the matrices: how much the network can hold. The file grows with it, 1.125 "
            "MiB per rank for SD 1.5 in fp16: 16 makes 18 MiB, 128 makes 144 MiB. 8 to 32 serve "
            "most characters and objects, 32 to 64 rich styles. Too low blurs details; too high "
            "learns each picture by heart, background included.",
            "矩阵的宽度，即网络的容量。文件大小随之增长：SD 1.5 以 fp16 保存时每 1 秩占 1.125 MiB，"
            "16 为 18 MiB，128 为 144 MiB。多数人物和物体用 8–32，复杂画风用 32–64。"
            "太低细节模糊；太高会把每张图连同背景死记下来。",
        ),
        Limits(1, 1024),
    )
    alpha: float = setting(
        16.0,
        Text("Alpha", "Alpha"),
        Text(
            "The change is multiplied by alpha / rank. With alpha equal to rank the learning rate "
            "means what it says; alpha 1, the default elsewhere, makes the same learning rate far "
            "weaker. It does not change the file's size. Change the learning rate rather than "
            "alpha.",
            "改变量要乘以 alpha ÷ 秩。alpha 等于秩时学习率名副其实；其他工具默认的 alpha 1 会使同"
            "样的学习率弱得多。它不影响文件大小。需要调整时请调学习率，而不是 alpha。",
        ),
        Limits(0.001),
    )
    conv_rank: int = setting(
        0,
        Text("Rank of convolutions", "卷积秩（LoCon）"),
        Text(
            "Also adapt the layers between the transformers: this rank for the 3x3 convolutions, "
            "the rank above for the others. Such a LoCon catches textures and lines better and "
            "learns faster by heart. 4 to 16 suffice; each adds 1.04 MiB for SD 1.5 in fp16. 0 "
            "leaves them alone, a plain LoRA.",
            "同时调整变换器之间的层：3×3 卷积用此秩，其余层用上面的秩。这样的 LoCon 更善于学习质感"
            "和线条，也更容易死记图片。4–16 即可；SD 1.5 以 fp16 保存时每 1 秩增加 1.04 MiB。0 表示"
            "不调整，即普通 LoRA。",
        ),
        Limits(1, 1024, zero=Text("transformers only", "仅变换器")),
    )
    conv_alpha: float = setting(
        0.0,
        Text("Alpha of convolutions", "卷积 Alpha"),
        Text(
            "As alpha, for the 3x3 convolutions: their change is multiplied by it / their rank. "
            "0 takes their rank, so that nothing is scaled.",
            "与 Alpha 相同，用于 3×3 卷积：改变量乘以它 ÷ 卷积秩。0 表示取卷积秩，即不缩放。",
        ),
        Limits(0.001, zero=Text("the rank of convolutions", "等于卷积秩")),
    )
    unet: bool = setting(
        True,
        Text("Train the U-Net", "训练 U-Net"),
        Text(
            "Train the part that draws. Off leaves only the words to learn, which rarely suffices.",
            "训练负责画图的部分。关闭后只能学习文字，通常远远不够。",
        ),
    )
    text_encoder: bool = setting(
        True,
        Text("Train the text encoder", "训练文本编码器"),
        Text(
            "Train the part that reads prompts too. It binds a new trigger word faster; off saves "
            "memory and time, keeps the base's understanding of prompts, and is often better for "
            "pure styles.",
            "同时训练理解提示词的部分，可更快学会新的触发词；关闭可节省显存和时间、保留底模对提示"
            "词的理解，纯画风训练往往关闭更好。",
        ),
    )

    blocks: str = setting(
        "",
        Text("Blocks to train", "训练的层（分层）"),
        Text(
            "Train these blocks alone: IN04-IN08 OUT03, NOT OUT03-OUT05, a preset such as NOFACE, "
            "or a vector, whose blocks at 0 are left out. What a block does is best seen in a "
            "block-weight grid first. Empty trains all of them.",
            "只训练这些层：IN04-IN08 OUT03、NOT OUT03-OUT05、NOFACE 之类的预设，或一组权重（为 0 的"
            "层不训练）。建议先用分层预览看清每层的作用。留空则训练所有层。",
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if not self.unet and not self.text_encoder:
            raise ConfigError(
                "network.unet and network.text_encoder are both false; nothing would be trained: "
                "set one of them to true"
            )
        if self.conv_rank and not self.unet:
            raise ConfigError(
                f"network.conv_rank is {self.conv_rank} but network.unet is false; only the U-Net "
                "has convolutions: set conv_rank to 0, or unet to true"
            )
