"""Settings of what is done to the words of a caption, whether a model or a person wrote them."""

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..errors import ConfigError
from .fields import Text, check_fields, setting, shown

ARROW = "=>"


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesConfig:
    """Rules in the order in which they act: remove, replace, first, sort, prefix, trigger."""

    TITLE: ClassVar = Text("Caption rules", "标注规则")

    match: Literal["auto", "tags", "words"] = setting(
        "auto",
        Text("Rules look at", "规则匹配方式"),
        Text(
            "Tags: a plain rule means a whole tag, what stands between two commas; upper and lower "
            "case, spaces and underscores are alike. Words: it means whole words anywhere, as "
            "sentences need it. Auto takes words for BLIP, and tags else.",
            "“标签”：普通规则匹配两个逗号之间的整个标签，不分大小写，空格与下划线等同。“词语”："
            "匹配任意位置的完整词语，适合句子。“自动”在使用 BLIP 时按词语，其余按标签。",
        ),
        choices={
            "auto": Text("Auto", "自动"),
            "tags": Text("Tags", "标签"),
            "words": Text("Words", "词语"),
        },
    )
    remove: tuple[str, ...] = setting(
        (),
        Text("Remove", "删除"),
        Text(
            "One rule each: a tag, or a regular expression between slashes, such as /eyes?$/, "
            "which removes each tag that it is found in (with words: what it matches). Remove what "
            "belongs to your subject and shall come with the trigger alone, such as its hair "
            "colour.",
            "每行一条：一个标签，或写在斜杠之间的正则表达式（如 /eyes?$/），删除含有匹配的标签（按"
            "词语时只删匹配的文字）。请删除主体自带、希望由触发词直接带出的特征，例如发色。",
        ),
    )
    replace: tuple[str, ...] = setting(
        (),
        Text("Replace", "替换"),
        Text(
            'One rule each, "old => new": old is a tag, or a regular expression between slashes, '
            r"whose groups new may name as \1. Rules act from the first to the last, on each tag "
            "(with words: on the whole caption).",
            "每行一条“旧 => 新”：旧可以是标签，或写在斜杠之间的正则表达式，新可用 \\1 引用其分组。"
            "规则从上到下依次作用于每个标签（按词语时作用于整条标注）。",
        ),
    )
    first: tuple[str, ...] = setting(
        (),
        Text("Tags first", "置前标签"),
        Text(
            "Tags that go to the front, in this order, where a caption has them, such as 1girl. "
            "Only for tags.",
            "标注中若有这些标签，则按此顺序移到最前，例如 1girl。仅用于标签。",
        ),
    )
    sort: bool = setting(
        False,
        Text("Sort tags", "标签排序"),
        Text(
            "Put the tags into alphabetical order. A tagger's own order is by confidence. Only for "
            "tags.",
            "按字母顺序排列标签。标注器自身按置信度排列。仅用于标签。",
        ),
    )
    unique: bool = setting(
        True,
        Text("Each tag once", "标签去重"),
        Text(
            "Keep only the first of equal tags. Only for tags.",
            "相同的标签只保留第一个。仅用于标签。",
        ),
    )
    prefix: str = setting(
        "",
        Text("Prefix", "前缀"),
        Text(
            "Put before every caption that does not begin with it, and parted by a comma, unless "
            'it ends in a space or comma itself: "a photo of " makes "a photo of a cat".',
            "加在每条标注之前（已以它开头的除外），以逗号分隔；若前缀自身以空格或逗号结尾则直接相连："
            "“a photo of ” 得到 “a photo of a cat”。",
        ),
    )
    suffix: str = setting(
        "",
        Text("Suffix", "后缀"),
        Text(
            "Put after every caption that does not end with it, parted by a comma.",
            "加在每条标注之后（已以它结尾的除外），以逗号分隔。",
        ),
    )
    trigger: str = setting(
        "",
        Text("Trigger", "触发词"),
        Text(
            "The word or words that shall call the subject. They become the very first tag of "
            "every caption, once; a sentence that holds them already stays as it is.",
            "用来唤出主体的词。它会成为每条标注的第一个标签，只出现一次；已含有它的句子保持原样。",
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        for number, rule in enumerate(self.remove):
            parse_pattern(rule, f"rules.remove[{number}]")
        for number, rule in enumerate(self.replace):
            parse_replacement(rule, f"rules.replace[{number}]")
        for name in ("prefix", "suffix", "trigger"):
            if any(letter in getattr(self, name) for letter in "\r\n"):
                raise ConfigError(
                    f"rules.{name} is {shown(getattr(self, name))}; a caption is one line: take "
                    "the line break out"
                )

    @property
    def is_empty(self) -> bool:
        """Whether no rule changes anything but doubled tags."""
        return self == RulesConfig(match=self.match, unique=self.unique)


@dataclass(frozen=True, slots=True)
class Pattern:
    """The left side of a rule: plain words, or a compiled regular expression."""

    words: str
    regex: re.Pattern[str] | None = None


def parse_pattern(rule: str, where: str) -> Pattern:
    """Read "words" or "/regex/". Raises ConfigError that names the setting `where`."""
    text = rule.strip()
    if len(text) > 2 and text.startswith("/") and text.endswith("/"):
        try:
            return Pattern(text, re.compile(text[1:-1]))
        except (re.error, RecursionError, OverflowError) as error:
            raise ConfigError(
                f"{where} is {shown(rule)}; between the slashes must be a regular expression "
                f"({error})"
            ) from error
    if not text.strip(","):
        raise ConfigError(f"{where} is {shown(rule)}; it must name a tag, or be a /regex/")
    return Pattern(text)


def parse_replacement(rule: str, where: str) -> tuple[Pattern, str]:
    """Read "old => new". Raises ConfigError that names the setting `where`."""
    old, arrow, new = rule.rpartition(ARROW)
    if not arrow:
        raise ConfigError(f'{where} is {shown(rule)}; write it as "old {ARROW} new"')
    pattern, new = parse_pattern(old, where), new.strip()
    if pattern.regex is not None:
        try:
            pattern.regex.sub(new, "")
        except (re.error, IndexError) as error:
            raise ConfigError(
                f"{where} is {shown(rule)}; what follows {ARROW} names a group that is not there "
                f"({error}); for a backslash itself write two"
            ) from error
    return pattern, new
