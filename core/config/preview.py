"""Settings of the pictures drawn with the network, during and after the training."""

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..errors import ConfigError
from .fields import Limits, Text, check_fields, setting, shown

_MOST_PROMPTS = 64
_SIZE = Limits(64, 2048, "pixels", zero=Text("the base model's own", "底模自身"), multiple=8)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewConfig:
    """What is drawn, and how; block weights are tried without saving anything."""

    TITLE: ClassVar = Text("Preview", "预览")

    prompts: tuple[str, ...] = setting(
        (),
        Text("Prompts", "提示词"),
        Text(
            "One row of the grid each. Write some that are not in the dataset: they show whether "
            "the subject was learnt or only its pictures. Empty draws no previews.",
            "每条提示词占网格一行。请写一些数据集里没有的：这样才能看出学会的是主体，还是只记住了"
            "图片。留空则不画预览。",
        ),
    )
    negative_prompt: str = setting(
        "",
        Text("Negative prompt", "反向提示词"),
        Text(
            "What the pictures should not show. Empty is best for judging a LoRA.",
            "画面中不希望出现的内容。评判 LoRA 时留空最好。",
        ),
    )
    presets: tuple[str, ...] = setting(
        (
            "NONE",
            "ALL",
            "NOFACE",
            "LyNOFACE",
            "INS",
            "IND",
            "INALL",
            "MIDD",
            "OUTD",
            "OUTS",
            "OUTALL",
        ),
        Text("Block-weight presets", "分层权重预设"),
        Text(
            "One column of the grid each: which blocks of the network act. NONE is the base model "
            "alone, ALL the whole LoRA, NOFACE leaves the face to the base, INS to OUTALL show "
            "what input, middle and output blocks learnt.",
            "每个预设占网格一列，决定网络的哪些层起作用。NONE 只有底模，ALL 为完整 LoRA，NOFACE 把"
            "脸留给底模，INS 到 OUTALL 显示输入、中间、输出各层学到了什么。",
        ),
    )
    sampler: Literal["euler_a", "euler", "dpmpp_2m_karras", "ddim"] = setting(
        "dpmpp_2m_karras",
        Text("Sampler", "采样器"),
        Text(
            "How noise becomes a picture. DPM++ 2M Karras is clean at 20 steps. Euler a adds fresh "
            "noise at every step, so its pictures change with the number of steps.",
            "噪声变成图片的方法。DPM++ 2M Karras 20 步即清晰。Euler a 每步加入新噪声，画面会随步数"
            "变化。",
        ),
        choices={
            "euler_a": Text("Euler a", "Euler a"),
            "euler": Text("Euler", "Euler"),
            "dpmpp_2m_karras": Text("DPM++ 2M Karras", "DPM++ 2M Karras"),
            "ddim": Text("DDIM", "DDIM"),
        },
    )
    host_sampler: str = setting(
        "",
        Text("Sampler of the WebUI", "WebUI 采样器"),
        Text(
            "Draw with the WebUI's own sampler, prompt weighting and VAE instead of ours, as its "
            "txt2img does, for pictures like those you will make. Empty uses the sampler above. "
            "For the tab in the WebUI and Forge only.",
            "改用 WebUI 自己的采样器、提示词加权和 VAE 出图，与 txt2img 一致，所见即所得。留空则"
            "使用上面的采样器。仅用于 WebUI 和 Forge 中的标签页。",
        ),
    )
    host_scheduler: str = setting(
        "",
        Text("Schedule type of the WebUI", "WebUI 调度类型"),
        Text(
            "The noise levels that the WebUI's sampler goes through, such as Karras. Empty is the "
            "sampler's own, which the WebUI calls Automatic.",
            "WebUI 采样器所走的噪声级别，例如 Karras。留空为采样器自带的，即 WebUI 的“Automatic”。",
        ),
    )
    steps: int = setting(
        20,
        Text("Sampling steps", "采样步数"),
        Text(
            "More is cleaner and slower; beyond 30 little changes.",
            "越多越清晰也越慢；超过 30 变化不大。",
        ),
        Limits(1, 150, "steps"),
    )
    guidance: float = setting(
        7.0,
        Text("Guidance (CFG scale)", "引导强度（CFG）"),
        Text(
            "How strictly the prompt is followed. 5 to 8 is usual; high values burn the colours, "
            "and an overtrained LoRA burns earlier.",
            "遵循提示词的严格程度，通常 5–8；过高颜色会过曝，训练过度的 LoRA 更早出现过曝。",
        ),
        Limits(0, 50),
    )
    seed: int = setting(
        1,
        Text("Seed", "随机种子"),
        Text(
            "Start of the noise: the same for all cells of a row, so that only the blocks differ. "
            "As the host seeds its own pictures: in the WebUI and Forge by their setting for the "
            "source of random numbers, elsewhere on the CPU, as ComfyUI does.",
            "噪声的起点：同一行的所有格子相同，因此差别只来自各层。与宿主出图的种子一致：在 WebUI "
            "与 Forge 中按其随机数来源设置，其他情况下使用 CPU 噪声，与 ComfyUI 相同。",
        ),
        Limits(0, 2**64 - 1),
    )
    width: int = setting(
        0,
        Text("Width", "宽度"),
        Text(
            "Of each picture. Draw at the size that you train at; larger may double the subject.",
            "每张图的宽度。请按训练尺寸绘制；更大可能出现重复的主体。",
        ),
        _SIZE,
    )
    height: int = setting(
        0,
        Text("Height", "高度"),
        Text("Of each picture, as for the width.", "每张图的高度，说明同宽度。"),
        _SIZE,
    )
    every: int = setting(
        0,
        Text("Preview every", "预览间隔"),
        Text(
            "Training steps between previews on the way; they change nothing in the training but "
            "take time. 0 draws only at the end.",
            "训练途中每隔多少步画一次预览；不影响训练结果，但占用时间。0 表示只在结束时画。",
        ),
        Limits(1, 1_000_000_000, "steps", zero=Text("only at the end", "只在结束时")),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if len(self.prompts) > _MOST_PROMPTS:
            raise ConfigError(
                f"preview.prompts has {len(self.prompts)} prompts; it must have {_MOST_PROMPTS} or "
                "fewer"
            )
        if not self.presets:
            raise ConfigError('preview.presets is empty; name at least one, such as "ALL"')
        for name, count in Counter(self.presets).items():
            if not name.strip():
                raise ConfigError("preview.presets holds an empty name; take it out")
            if count > 1:
                raise ConfigError(f"preview.presets names {shown(name)} {count} times; keep one")
