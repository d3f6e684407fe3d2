"""Settings of the training pictures: where they are and how they are sized."""

from dataclasses import MISSING, dataclass
from typing import ClassVar

from ..errors import ConfigError
from .fields import Limits, Text, check_fields, check_path, setting, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetConfig:
    """The folder of pictures and captions, and how pictures become batches."""

    TITLE: ClassVar = Text("Dataset", "数据集")

    folder: str = setting(
        MISSING,
        Text("Folder", "文件夹"),
        Text(
            'Folder with the pictures. Sub-folders named like "10_name" give the repeats: each '
            "picture of that folder is seen 10 times in an epoch. Both the sub-folder and its "
            "parent may be given; pictures lying directly in the folder count once. 15 good "
            "pictures are better than 100 mixed ones.",
            "存放图片的文件夹。形如 “10_名称” 的子文件夹表示重复次数：其中每张图每轮看 10 次。可以"
            "选子文件夹，也可以选它的上级；直接放在文件夹里的图片计 1 次。15 张好图胜过 100 张杂"
            "图。",
        ),
    )
    resolution: int = setting(
        0,
        Text("Resolution", "分辨率"),
        Text(
            "Side of the square whose area every picture is scaled to. 0 takes the base model's "
            "own (512 for SD 1.5), which is right for most. Higher shows more detail and costs "
            "memory and time with the area; far from the base's own size the anatomy falls apart.",
            "每张图缩放后的面积所对应的正方形边长。0 表示采用底模自身的分辨率（SD 1.5 为 512），多"
            "数情况下正合适。更高则细节更多，显存与时间按面积增长；与底模尺寸相差太远时画面结构会"
            "崩坏。",
        ),
        Limits(64, 2048, "pixels", zero=Text("the base model's own", "底模自身"), multiple=8),
    )
    buckets: bool = setting(
        True,
        Text("Aspect-ratio buckets", "宽高比分桶"),
        Text(
            "Keep each picture's shape: pictures of similar shape share batches. Off crops every "
            "picture to a square, which cuts heads and feet off upright pictures.",
            "保留每张图的形状：形状相近的图片放进同一批次。关闭后所有图片裁成正方形，竖图会被切掉"
            "头和脚。",
        ),
    )
    bucket_step: int = setting(
        0,
        Text("Bucket step", "分桶步长"),
        Text(
            "Bucket sides are multiples of this. Smaller crops less of each picture but makes more "
            "buckets with fewer pictures, and so more incomplete batches. 0 takes 64, or 8 below a "
            "resolution of 256.",
            "桶的边长是它的整数倍。越小则裁掉的画面越少，但桶更多、每桶图片更少，不满的批次也更多。"
            "0 表示 64；分辨率低于 256 时为 8。",
        ),
        Limits(8, 512, "pixels", zero=Text("chosen by resolution", "按分辨率选择"), multiple=8),
    )
    bucket_upscale: bool = setting(
        False,
        Text("Upscale small pictures", "放大小图"),
        Text(
            "Enlarge pictures that are smaller than the resolution. Off trains them at their own "
            "size, in buckets of their own: enlarged pictures teach the LoRA to draw blurred.",
            "把小于分辨率的图片放大。关闭时小图按原尺寸单独分桶训练：放大的图会让 LoRA 学会画模糊"
            "的画面。",
        ),
    )
    caption_extension: str = setting(
        ".txt",
        Text("Caption extension", "标注文件扩展名"),
        Text(
            "A picture's caption is the text file of the same name with this extension. A picture "
            "without one takes its folder's name; the report counts them.",
            "图片的标注是同名、以此为扩展名的文本文件。没有标注的图片使用文件夹名；报告会统计它们"
            "的数量。",
        ),
    )

    caption_tokens: int = setting(
        75,
        Text("Caption length", "标注长度"),
        Text(
            "Tokens of a caption that are read; a word is one or more. 75 is what the text encoder "
            "takes at once and is enough for most; 150 and 225 read long captions in pieces of 75, "
            "as image programs do, and cost time. What goes beyond is cut off: the plan counts "
            "such captions.",
            "读取标注的多少个词元（一个词占一个或多个）。75 是文本编码器一次能读的长度，多数情况已"
            "足够；150 和 225 会像绘图程序那样把长标注分成每段 75 个词元读取，更费时间。超出部分会"
            "被截掉：计划会统计这样的标注。",
        ),
        Limits(75, 225, "tokens", multiple=75),
    )
    weighted_captions: bool = setting(
        False,
        Text("Weighted captions", "带权重的标注"),
        Text(
            "Read (brackets:1.2) and [brackets] in captions as the WebUI does in prompts: what is "
            "in them counts more or less. Off reads brackets as letters. Leave it off unless your "
            'captions were written so; tags such as "name (series)" need \\( and \\) then.',
            "把标注中的 (括号:1.2) 和 [括号] 按 WebUI 提示词的规则读作权重：其中的内容更重或更轻。"
            "关闭时括号只是普通字符。除非标注就是这样写的，否则请保持关闭；打开后，形如 “name "
            "(series)” 的标签需写成 \\( 和 \\)。",
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_path("dataset.folder", self.folder)
        check_caption_extension("dataset.caption_extension", self.caption_extension)
        if self.buckets and 0 < self.resolution < self.bucket_step:
            raise ConfigError(
                f"dataset.bucket_step is {self.bucket_step} but dataset.resolution is "
                f"{self.resolution}; the step must not be larger than the resolution"
            )


def check_caption_extension(where: str, extension: str) -> None:
    """Raise ConfigError unless `extension` can be that of text files, with its dot."""
    if not extension.startswith(".") or len(extension) < 2 or set(extension) & set('/\\:*?"<>|'):
        raise ConfigError(
            f'{where} is {shown(extension)}; it must be an extension with its dot, such as ".txt"'
        )
