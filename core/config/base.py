"""Settings of the base model that the network is trained on."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..errors import ConfigError
from .fields import Limits, Text, check_fields, check_path, setting

EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True, kw_only=True)
class BaseConfig:
    """Which base model, and how it is to be understood."""

    TITLE: ClassVar = Text("Base model", "底模")

    checkpoint: str = setting(
        EMBEDDED,
        Text("Checkpoint", "模型文件"),
        Text(
            "Path of the base model, a Stable Diffusion 1.x, 2.x or XL .safetensors or .ckpt file, "
            'or a folder as diffusers saves it, or "embedded" for the small model that comes with '
            "the program and needs no download. Train on the model that you will draw with, or on "
            "the one it was made from: a LoRA fits its base best. LoRAs of SD 1.5, SD 2.x and SDXL "
            "are not interchangeable.",
            "底模的路径（Stable Diffusion 1.x、2.x 或 XL 的 .safetensors、.ckpt 文件，或 diffusers "
            "格式的文件夹），或填 “embedded” 使用随程序附带、无需下载的小模型。请用将来出图的模型或"
            "它的母模型来训练：LoRA 与其底模最合拍。SD 1.5、SD 2.x 与 SDXL 的 LoRA 不能互换。",
        ),
    )
    vae: str = setting(
        "",
        Text("VAE", "VAE"),
        Text(
            "Path of a VAE, a file or a folder, to take instead of the checkpoint's. Empty "
            "takes its own, which is nearly always right. It must be of the same family: SDXL's "
            "VAE on SD 1.5 turns every picture to noise.",
            "用来代替底模自带 VAE 的 VAE 文件或文件夹路径。留空使用自带的，几乎总是正确的选择。"
            "必须属于同一类模型：在 SD 1.5 上用 SDXL 的 VAE 会把所有图变成噪声。",
        ),
    )
    clip_skip: int = setting(
        1,
        Text("Clip skip", "跳过 CLIP 层"),
        Text(
            "Which layer of the text encoder is read, counted from the end; 1 is the last. Photo "
            "models use 1, most anime models were trained with 2; SD 2.x and SDXL read a fixed "
            "layer and ignore this. Use the same value when drawing: image programs do not read it "
            "from the file, and another value weakens the result.",
            "读取文本编码器倒数第几层，1 为最后一层。写实模型用 1，多数动漫模型训练时用 2；"
            "SD 2.x 和 SDXL 读取固定的层，忽略此项。"
            "出图时请用同样的值：绘图程序不会从文件中读取它，数值不一致会削弱效果。",
        ),
        Limits(1, 12),
    )
    prediction: Literal["auto", "epsilon", "v"] = setting(
        "auto",
        Text("Prediction", "预测类型"),
        Text(
            "What the base model was trained to predict. Auto reads it from the file. Choose by "
            "hand only where the file does not say it: with the wrong one the previews are noise "
            "and the LoRA is useless.",
            "底模训练时的预测目标。“自动”从文件中判断。仅当文件没有标明时才手动选择："
            "选错时预览全是噪声，LoRA 也无法使用。",
        ),
        choices={
            "auto": Text("Auto", "自动"),
            "epsilon": Text("Epsilon (noise)", "Epsilon（噪声）"),
            "v": Text("V (velocity)", "V（速度）"),
        },
    )
    zero_terminal_snr: Literal["auto", "yes", "no"] = setting(
        "auto",
        Text("Zero terminal SNR", "零终端信噪比"),
        Text(
            "Whether the base model's noise schedule ends in pure noise, as that of some "
            "v-prediction models does. Auto reads it from the file. A wrong value makes previews "
            "grey or burnt; it cannot be combined with epsilon prediction.",
            "底模的噪声表是否以纯噪声结束（部分 V 预测模型如此）。“自动”从文件中判断。"
            "设错会使预览发灰或过曝；不能与 Epsilon 预测同时使用。",
        ),
        choices={
            "auto": Text("Auto", "自动"),
            "yes": Text("Yes", "是"),
            "no": Text("No", "否"),
        },
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_path("base.checkpoint", self.checkpoint)
        if self.vae:
            check_path("base.vae", self.vae)
        if self.zero_terminal_snr == "yes" and self.prediction == "epsilon":
            raise ConfigError(
                'base.zero_terminal_snr is "yes" but base.prediction is "epsilon"; pure noise '
                'cannot be told from noise: set prediction to "v", or zero_terminal_snr to "no"'
            )
