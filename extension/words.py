"""The tab's own words, in the language that the user has set."""

from ..core.config import Text
from .hosts.protocol import Language

PHASES = {
    "scan": Text("Reading the pictures", "读取图片"),
    "text": Text("Encoding captions", "编码标注"),
    "latents": Text("Encoding pictures", "编码图片"),
    "train": Text("Training", "训练"),
    "save": Text("Saving and checking", "保存并校验"),
    "preview": Text("Drawing", "出图"),
    "caption": Text("Captioning", "打标"),
    "analysis": Text("Measuring blocks", "分析各层"),
}
STATES = {
    "waiting": Text("waiting", "排队中"),
    "running": Text("running", "运行中"),
    "paused": Text("paused", "已暂停"),
    "stopping": Text("stopping after this step", "完成这一步后停止"),
    "done": Text("done", "完成"),
    "stopped": Text("stopped, what was made is kept", "已停止，成果已保存"),
    "failed": Text("failed", "失败"),
}


class Words:
    """Picks the language: `say("Start", "开始")`, or `say.text(setting.label)`."""

    def __init__(self, language: Language) -> None:
        self.language: Language = language

    def __call__(self, en: str, zh: str) -> str:
        """One of two spellings."""
        return zh if self.language == "zh" else en

    def text(self, text: Text) -> str:
        """The spelling of words that come as a pair."""
        return self(text.en, text.zh)

    def phase(self, name: str) -> str:
        """The name of a phase."""
        return self.text(PHASES.get(name, Text(name, name)))

    def state(self, name: str) -> str:
        """The name of a job's state."""
        return self.text(STATES[name])


def readable_bytes(count: int) -> str:
    """1536 -> '1.5 KiB'."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def readable_time(seconds: float, say: Words) -> str:
    """75 -> '1 min 15 s'."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return say(f"{hours} h {minutes} min", f"{hours} 小时 {minutes} 分")
    if minutes:
        return say(f"{minutes} min {whole % 60} s", f"{minutes} 分 {whole % 60} 秒")
    return say(f"{whole} s", f"{whole} 秒")
