"""Settings of what is written, and where."""

import unicodedata
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..errors import ConfigError
from .fields import Limits, Text, check_fields, check_path, setting, shown

_LONGEST_NAME = 120
_LONGEST_NAME_BYTES = 200  # of the 255 that file systems allow, with room for what is added
_RESERVED = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    | {f"{port}{digit}" for port in ("COM", "LPT") for digit in "0123456789¹²³"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputConfig:
    """Name, place and format of the files."""

    TITLE: ClassVar = Text("Output", "输出")

    folder: str = setting(
        "output",
        Text("Folder", "文件夹"),
        Text(
            "Where the network file, grids, plots and resume states are written.",
            "网络文件、网格图、曲线图和续训状态的保存位置。",
        ),
    )
    name: str = setting(
        "my_lora",
        Text("Name", "名称"),
        Text(
            "Name of the network file without its extension; image programs show it. An existing "
            "file is never overwritten: they would go on showing pictures of the old one.",
            "网络文件的名称（不含扩展名），绘图程序中显示此名。绝不覆盖已有文件：否则绘图程序会继"
            "续使用旧文件。",
        ),
    )
    precision: Literal["fp16", "bf16", "fp32"] = setting(
        "fp16",
        Text("File precision", "保存精度"),
        Text(
            "Number format in the file, whatever the training used. fp16 is what everyone loads "
            "and loses nothing visible; fp32 doubles the size and is for merging and further "
            "training.",
            "文件中的数值格式，与训练精度无关。fp16 通用，且看不出损失；fp32 体积加倍，适合合并或"
            "继续训练。",
        ),
        choices={
            "fp16": Text("fp16", "fp16"),
            "bf16": Text("bf16", "bf16"),
            "fp32": Text("fp32", "fp32"),
        },
    )
    state_every: int = setting(
        250,
        Text("Resume state every", "续训状态间隔"),
        Text(
            "Steps between saved resume states, from which a training goes on exactly where it "
            "was, even after a crash. Each takes about six times the space of the network. 0 saves "
            "one only when the training is stopped.",
            "每隔多少步保存一次续训状态，崩溃后也可原样继续。每个约为网络文件的六倍大小，写入只需片刻。"
            "0 表示只在停止训练时保存。",
        ),
        Limits(1, 1_000_000_000, "steps", zero=Text("only when stopped", "只在停止时")),
    )
    trigger: str = setting(
        "",
        Text("Trigger", "触发词"),
        Text(
            "The word or words that call the subject, written into the file for those who use it. "
            "It is not added to the captions: it must stand in them.",
            "唤出主体的词，写入文件供使用者查看。它不会自动加进标注：标注里必须已有它。",
        ),
    )
    comment: str = setting(
        "",
        Text("Comment", "备注"),
        Text(
            "Any text for the file's metadata. Everyone who gets the file can read it.",
            "写入文件元数据的任意文字。拿到文件的人都能看到。",
        ),
    )

    def __post_init__(self) -> None:
        check_fields(self)
        check_path("output.folder", self.folder)
        check_name("output.name", self.name)
        if len(self.trigger) > 500 or not self.trigger.isprintable():
            raise ConfigError(
                f"output.trigger is {shown(self.trigger)}; it must be one line of at most 500 "
                "characters"
            )


def check_name(where: str, name: str) -> None:
    """Raise ConfigError unless `name` can be a file's name on Linux, macOS and Windows alike."""
    wrong = _name_error(name)
    if wrong:
        raise ConfigError(f"{where} is {shown(name)}; {wrong}")


def _name_error(name: str) -> str | None:
    if not name.strip():
        return "it must not be empty"
    if len(name) > _LONGEST_NAME or len(name.encode()) > _LONGEST_NAME_BYTES:
        return (
            f"it must have at most {_LONGEST_NAME} characters and {_LONGEST_NAME_BYTES} bytes, and "
            f"has {len(name)} and {len(name.encode())}"
        )
    if "/" in name or "\\" in name:
        return "it must be a plain name without folders: set output.folder instead"
    bad = sorted({letter for letter in name if letter in ':*?"<>|'})
    if bad:
        return f"file names cannot hold {' '.join(bad)}"
    if any(unicodedata.category(letter) == "Cc" for letter in name):
        return "it must not hold control characters"
    if name != name.strip() or name.endswith("."):
        return "it must not end in a dot, nor begin or end in a space"
    if name.split(".")[0].rstrip().upper() in _RESERVED:
        return "Windows reserves this name: choose another"
    return None
