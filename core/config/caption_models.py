"""Settings of the models that write captions."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..errors import ConfigError
from .fields import Limits, Text, check_fields, setting, shown


@dataclass(frozen=True, slots=True, kw_only=True)
class TaggerConfig:
    """Which of a tagger's tags are taken, and how they are written."""

    TITLE: ClassVar = Text("WD14 tagger", "WD14 标注器")

    general_threshold: float = setting(
        0.35,
        Text("General threshold", "通用标签阈值"),
        Text(
            "How sure the tagger must be of a tag. Lower finds more and errs more.",
            "标注器对标签的把握须达到此值。越低标签越多，误判也越多。",
        ),
        Limits(0, 1),
    )
    character_threshold: float = setting(
        0.85,
        Text("Character threshold", "角色标签阈值"),
        Text(
            "The same for the names of characters, of which it must be surer: a wrong name draws "
            "that character into your subject.",
            "角色名称的阈值，要求更高：错误的角色名会把那个角色混进你的主体。",
        ),
        Limits(0, 1),
    )
    character_tags: Literal["first", "mixed", "none"] = setting(
        "mixed",
        Text("Character tags", "角色标签"),
        Text(
            "First puts names before all other tags. None leaves them out: for a character of your "
            "own, whose name is the trigger.",
            "“最前”把角色名放在其他标签之前。“不要”则去掉：适合用触发词命名的自创角色。",
        ),
        choices={
            "first": Text("First", "最前"),
            "mixed": Text("By confidence", "按置信度"),
            "none": Text("None", "不要"),
        },
    )
    rating_tag: Literal["none", "first", "last"] = setting(
        "none",
        Text("Rating tag", "分级标签"),
        Text(
            "Whether to write the likeliest rating (general, sensitive, questionable, explicit), "
            "and where.",
            "是否写入最可能的分级（general、sensitive、questionable、explicit），以及位置。",
        ),
        choices={
            "none": Text("None", "不要"),
            "first": Text("First", "最前"),
            "last": Text("Last", "最后"),
        },
    )
    undesired: tuple[str, ...] = setting(
        (),
        Text("Undesired tags", "不要的标签"),
        Text(
            "Tags that are never written, with spaces or underscores. Unlike the rule Remove, "
            "captions that are there keep them.",
            "永不写入的标签，空格或下划线均可。与“删除”规则不同，已有标注不受影响。",
        ),
    )
    spaces: bool = setting(
        True,
        Text("Spaces for underscores", "下划线换成空格"),
        Text(
            "Write long hair for long_hair, as most models were trained. Faces such as ^_^ keep "
            "theirs.",
            "把 long_hair 写成 long hair，多数模型如此训练。^_^ 之类的颜文字保持不变。",
        ),
    )
    escape_brackets: bool = setting(
        False,
        Text("Escape brackets", "转义括号"),
        Text(
            r"Write \( for (. Only where captions are trained with weights, in which brackets mean "
            "emphasis.",
            "把 ( 写成 \\(。仅在训练时启用标注权重（括号表示强调）的情况下使用。",
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlipConfig:
    """How BLIP finds its sentence."""

    TITLE: ClassVar = Text("BLIP", "BLIP")

    method: Literal["beams", "nucleus"] = setting(
        "beams",
        Text("Method", "生成方式"),
        Text(
            "Beam search finds a likely sentence: true and plain. Nucleus sampling draws one: more "
            "detail, more variety, more mistakes.",
            "束搜索寻找可能性高的句子：准确、朴素。核采样随机生成：细节和变化更多，错误也更多。",
        ),
        choices={
            "beams": Text("Beam search", "束搜索"),
            "nucleus": Text("Nucleus sampling", "核采样"),
        },
    )
    beams: int = setting(
        3,
        Text("Beams", "束数"),
        Text(
            "Sentences that beam search follows at once. More is a little better and slower in "
            "proportion; 1 takes the likeliest word each time.",
            "束搜索同时跟踪的句子数。越多略好，耗时成比例增加；1 表示每次取最可能的词。",
        ),
        Limits(1, 32),
    )
    top_p: float = setting(
        0.9,
        Text("Top p", "Top p"),
        Text(
            "Nucleus sampling draws from the likeliest words that together have this probability. "
            "Higher is more varied and wilder.",
            "核采样只从累计概率达到此值的最可能的词中抽取。越高越多样，也越离谱。",
        ),
        Limits(0.01, 1),
    )
    seed: int = setting(
        1,
        Text("Seed", "随机种子"),
        Text(
            "Of nucleus sampling. A picture gets the same sentence again with the same seed, "
            "whatever else is in the folder.",
            "核采样的随机种子。同一图片用同一种子总得到同样的句子，与文件夹里的其他图片无关。",
        ),
        Limits(0, 2**63 - 1),
    )
    min_length: int = setting(
        5,
        Text("Shortest caption", "最短长度"),
        Text(
            "In tokens, roughly words. Long minimums make BLIP invent or repeat.",
            "以词元计，大致等于单词数。最小值过大会让 BLIP 编造或重复。",
        ),
        Limits(1, 200),
    )
    max_length: int = setting(
        75,
        Text("Longest caption", "最长长度"),
        Text(
            "In tokens. A caption of up to 75 is read whole by the model that you train.",
            "以词元计。75 以内的标注能被所训练的模型完整读取。",
        ),
        Limits(1, 200),
    )
    prompt: str = setting(
        "",
        Text("Beginning", "开头"),
        Text(
            'Words that BLIP goes on from, such as "a photo of"; they stay in the caption. Empty '
            "lets it begin freely. Words that it need not know, such as your trigger, belong into "
            "the rules' prefix.",
            "让 BLIP 接着写的开头，例如 “a photo of”，会保留在标注中。留空则自由发挥。它不认识的词"
            "（如触发词）请写在规则的前缀里。",
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        if self.min_length > self.max_length:
            raise ConfigError(
                f"blip.min_length is {self.min_length} but blip.max_length is {self.max_length}; "
                "the shortest must not be longer than the longest"
            )
        if any(letter in self.prompt for letter in "\r\n"):
            raise ConfigError(f"blip.prompt is {shown(self.prompt)}; it must be one line")
