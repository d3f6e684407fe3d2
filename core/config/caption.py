"""Settings of captioning: which model looks at the pictures, and what becomes of its words."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar, Literal

from ..errors import ConfigError
from .caption_models import BlipConfig, TaggerConfig
from .caption_rules import RulesConfig
from .dataset import check_caption_extension
from .fields import Limits, Text, check_fields, setting, shown
from .mapping import from_mapping, parse_json, read_settings

__all__ = ["BlipConfig", "CaptionConfig", "RulesConfig", "TaggerConfig", "caption_sections"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionConfig:
    """All settings of one captioning; `tagger` is for WD14 models, `blip` for BLIP."""

    TITLE: ClassVar = Text("Captioning", "标注")

    captioner: Literal["wd14", "blip", "none"] = setting(
        "wd14",
        Text("Captioner", "标注器"),
        Text(
            "WD14 models write tags, best for anime models; BLIP writes an English sentence, best "
            "for models of photos. Rules alone changes the captions that are there and needs no "
            "model.",
            "WD14 系列输出标签，适合动漫模型；BLIP 输出英文句子，适合写实模型。“仅规则”只修改已有"
            "标注，不需要模型。",
        ),
        choices={
            "wd14": Text("WD14 tagger (tags)", "WD14 标注器（标签）"),
            "blip": Text("BLIP (sentences)", "BLIP（句子）"),
            "none": Text("Rules alone", "仅规则"),
        },
    )
    model: str = setting(
        "",
        Text("Model", "模型"),
        Text(
            "The model's folder, or its name in one of the model folders, such as "
            "wd-vit-tagger-v3. A tagger's folder holds selected_tags.csv and model.onnx or "
            "model.safetensors; BLIP's holds what its page offers for transformers. Empty takes "
            "the first that is found.",
            "模型所在的文件夹，或它在模型目录中的名称，例如 wd-vit-tagger-v3。标注器的文件夹应有 "
            "selected_tags.csv 以及 model.onnx 或 model.safetensors；BLIP 的文件夹应有其页面提供的 "
            "transformers 文件。留空则使用找到的第一个。",
        ),
    )
    download: bool = setting(
        False,
        Text("Download the model", "下载模型"),
        Text(
            "Where the model is in none of the folders, fetch it from huggingface.co: the one that "
            "is named above, as owner/name, or else a usual one (about 0.4 to 1.9 GB). Without "
            "this nothing is ever downloaded.",
            "若各文件夹中都没有该模型，则从 huggingface.co 下载：上面以“作者/名称”写明的模型，否则"
            "下载常用模型（约 0.4–1.9 GB）。不勾选则绝不下载任何东西。",
        ),
    )
    existing: Literal["keep", "replace", "append", "prepend"] = setting(
        "keep",
        Text("Captions that are there", "已有标注"),
        Text(
            "Keep leaves pictures alone that have a caption. Append and prepend put the new words "
            "behind or before the old ones, without doubling tags. Replace writes anew. Every "
            "change can be undone. Rules alone works on what is there, whatever this says.",
            "“保留”不改动已有标注的图片。“追加”和“前置”把新词放在旧词之后或之前，标签不重复。“替换”"
            "重新写入。所有改动都可撤销。“仅规则”总是修改已有标注，不受此项影响。",
        ),
        choices={
            "keep": Text("Keep", "保留"),
            "replace": Text("Replace", "替换"),
            "append": Text("Append", "追加"),
            "prepend": Text("Prepend", "前置"),
        },
    )
    caption_extension: str = setting(
        ".txt",
        Text("Caption extension", "标注文件扩展名"),
        Text(
            "Captions are written into a text file beside each picture, of its name and this "
            "extension. Use that of the dataset.",
            "标注写入每张图片旁边的同名文本文件，使用此扩展名。请与数据集的设置一致。",
        ),
    )
    recursive: bool = setting(
        False,
        Text("All sub-folders", "包含所有子文件夹"),
        Text(
            "Off takes the pictures that a training would see: those of the folder, or of its "
            "folders named like 10_name. On takes every folder below it as well.",
            "关闭时只处理训练会用到的图片：该文件夹中的，或其 “10_名称” 子文件夹中的。开启后包含下"
            "面的所有文件夹。",
        ),
    )
    batch_size: int = setting(
        4,
        Text("Batch size", "批大小"),
        Text(
            "Pictures that the model sees at once. More is faster on a GPU and needs more memory; "
            "the captions are the same.",
            "模型一次处理的图片数。在 GPU 上越大越快，也更占显存；标注结果不变。",
        ),
        Limits(1, 256, "images"),
    )
    dry_run: bool = setting(
        False,
        Text("Dry run", "试运行"),
        Text(
            "Do everything but write: shows for each caption what would change.",
            "只演示不写入：显示每条标注将如何改变。",
        ),
    )
    tagger: TaggerConfig = field(default_factory=TaggerConfig)
    blip: BlipConfig = field(default_factory=BlipConfig)
    rules: RulesConfig = field(default_factory=RulesConfig)

    def __post_init__(self) -> None:
        check_fields(self)
        for name, section in caption_sections().items():
            if name != "caption" and not isinstance(getattr(self, name), section):
                raise ConfigError(
                    f"caption.{name} is {shown(getattr(self, name))}; it must be a "
                    f"{section.__name__}"
                )
        check_caption_extension("caption.caption_extension", self.caption_extension)
        if any(ord(letter) < 32 for letter in self.model):
            raise ConfigError(
                f"caption.model is {shown(self.model)}; a path has no line breaks or tabs"
            )

    @property
    def match(self) -> Literal["tags", "words"]:
        """What plain rules look at, "auto" resolved."""
        if self.rules.match != "auto":
            return self.rules.match
        return "words" if self.captioner == "blip" else "tags"

    @classmethod
    def from_json(cls, text: str) -> "CaptionConfig":
        """Read the settings from JSON text, as strictly as a recipe. Raises ConfigError."""
        return from_mapping(cls, parse_json(text, "the captioning settings"), "caption")

    @classmethod
    def load(cls, path: str | Path) -> "CaptionConfig":
        """Read a settings file; a relative `model` that is there is taken from the file's folder.

        Raises FileError where it cannot be read, ConfigError that names the file where its
        content is wrong.
        """
        path = Path(path)
        text = read_settings(path, "captioning settings")
        try:
            config = cls.from_json(text)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error
        beside = path.resolve().parent / config.model
        return replace(config, model=str(beside)) if config.model and beside.exists() else config


def caption_sections() -> dict[str, type]:
    """The groups of captioning settings by name, in their order."""
    return {
        "caption": CaptionConfig,
        "tagger": TaggerConfig,
        "blip": BlipConfig,
        "rules": RulesConfig,
    }
