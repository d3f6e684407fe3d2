"""What a page shows of the jobs, as HTML; every text that comes from elsewhere is escaped."""

import html
from collections.abc import Iterable

from ..core.events import Finding, Planned
from .chart import Zoom, loss_chart
from .jobs import OVER, Job
from .progress import Line, Snapshot
from .words import Words, readable_bytes, readable_time

_MOST_FINDINGS = 12
_MOST_LINES = 40


def plan_line(planned: Planned, say: Words) -> str:
    """The plan in one line, its findings folded below."""
    facts = [
        say(f"<b>{planned.steps:,}</b> steps", f"<b>{planned.steps:,}</b> 步"),
        say(
            f"{planned.images:,} pictures in {planned.buckets} sizes",
            f"{planned.images:,} 张图，{planned.buckets} 种尺寸",
        ),
        say(counted(planned.epochs, "epoch"), f"{planned.epochs:,} 轮"),
        say("file ", "文件 ") + readable_bytes(planned.file_bytes),
        say("memory about ", "显存约 ") + readable_bytes(planned.memory_bytes),
    ]
    return _line("good", " · ".join(facts)) + findings(planned.findings, say)


def notice(text: str, kind: str = "good") -> str:
    """One line about what was just done. kind: "good", "warn" or "bad"."""
    return _line(kind, html.escape(text)) if text else ""


def findings(found: Iterable[Finding], say: Words) -> str:
    """Findings as a list, the worst first."""
    ranks = {"error": 0, "warning": 1, "info": 2}
    ordered = sorted(found, key=lambda finding: ranks[finding.level])
    if not ordered:
        return ""
    items = [
        f'<li class="lora-loop-{finding.level}">{html.escape(finding.text)}'
        f"{html.escape(f' ({finding.path})') if finding.path else ''}</li>"
        for finding in ordered[:_MOST_FINDINGS]
    ]
    more = len(ordered) - _MOST_FINDINGS
    if more > 0:
        items.append(f"<li>{say(f'and {more} more', f'另有 {more} 条')}</li>")
    worst = sum(finding.level != "info" for finding in ordered)
    title = say(counted(len(ordered), "finding"), f"{len(ordered)} 条提示")
    if worst:
        title += say(f", {worst} to look at", f"，其中 {worst} 条需留意")
    return (
        f'<details class="lora-loop-findings"><summary>{title}</summary>'
        f"<ul>{''.join(items)}</ul></details>"
    )


def job_strip(job: Job | None, waiting: int, say: Words) -> str:
    """The current job in one line with its bar, and how many wait; for every page."""
    if job is None:
        return '<div class="lora-loop-strip lora-loop-idle" data-state="idle"></div>'
    now = job.progress.snapshot()
    share = now.done / now.total if now.total else float(job.state in OVER)
    words = [f"<b>{html.escape(job.title)}</b>", say.state(job.state)]
    if job.state not in OVER and now.phase:
        words.append(say.phase(now.phase))
    if now.total and job.state not in OVER:
        words.append(f"{now.done:,} / {now.total:,}")
    if now.losses:
        words.append(say("loss ", "损失 ") + f"{now.losses[-1]:.4f}")
    if now.rate and job.state not in OVER:
        words.append(say(f"{now.rate:.2f} pictures/s", f"{now.rate:.2f} 张/秒"))
    if now.seconds_left is not None and job.state == "running":
        left = readable_time(now.seconds_left, say)
        words.append(say(f"{left} left", f"剩余 {left}"))
    if waiting:
        words.append(say(f"{waiting} waiting", f"{waiting} 个排队"))
    cells = ""
    if now.sheet and job.state not in OVER:
        told = say("The pictures that are drawn so far", "已绘制的图片")
        cells = f'<img class="lora-loop-cells" src="{now.sheet}" alt="{told}" title="{told}">'
    error = f'<div class="lora-loop-error">{html.escape(job.error)}</div>' if job.error else ""
    return (
        f'<div class="lora-loop-strip" data-job="{job.number}" data-state="{job.state}" '
        f'data-kind="{job.kind}">'
        f'<div class="lora-loop-words">{" · ".join(words)}</div>'
        f'<div class="lora-loop-bar"><div style="width:{100 * min(share, 1):.1f}%"></div></div>'
        f"{cells}{error}</div>"
    )


def training_view(job: Job | None, zoom: Zoom, say: Words) -> str:
    """The chart, the files and the log of a job."""
    if job is None:
        hint = say(
            "Here you will see the loss, pictures and files of a training.",
            "训练的损失曲线、预览图和文件会显示在这里。",
        )
        return f'<div class="lora-loop-empty">{hint}</div>'
    now = job.progress.snapshot()
    chart = loss_chart(now, say, zoom)
    files = "".join(f"<li>{html.escape(str(path))}</li>" for path in now.files)
    parts = [chart, findings(now.findings, say) if job.state in OVER else ""]
    if files:
        parts.append(f"<h4>{say('Files', '文件')}</h4><ul>{files}</ul>")
    parts.append(_log(now, say))
    return f'<div class="lora-loop-live">{"".join(parts)}</div>'


def queue_list(jobs: Iterable[Job], say: Words) -> str:
    """Jobs that wait or are over, one a line."""
    rows = "".join(
        f"<li><b>{html.escape(job.title)}</b> · {say.state(job.state)}"
        f"{': ' + html.escape(job.error) if job.error else ''}</li>"
        for job in jobs
    )
    return f'<ul class="lora-loop-queue">{rows}</ul>' if rows else ""


def counted(number: int, noun: str) -> str:
    """2 -> '2 epochs', 1 -> '1 epoch'."""
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _log(now: Snapshot, say: Words) -> str:
    lines = [_log_line(line, say) for line in now.log[-_MOST_LINES:]]
    if not lines:
        return ""
    return (
        f'<details class="lora-loop-log"><summary>{say("Log", "日志")}</summary>'
        f"<pre>{html.escape(chr(10).join(lines))}</pre></details>"
    )


def _log_line(line: Line, say: Words) -> str:
    text = say.phase(line.text) if line.kind == "phase" else line.text
    return f"{readable_time(line.seconds, say):>10}  {text}"


def _line(kind: str, content: str) -> str:
    return f'<div class="lora-loop-line lora-loop-{kind}">{content}</div>'
