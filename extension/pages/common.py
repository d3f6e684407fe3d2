"""What all pages share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from ...core.errors import ConfigError, TrainerError
from ...core.session import Baked
from ..desk import Desk
from ..gradio_versions import UNCHANGED
from ..jobs import Job
from ..live import notice
from ..widgets import Form
from ..words import Words


@dataclass(frozen=True, slots=True)
class Context:
    """What a page is built from."""

    desk: Desk
    form: Form
    say: Words


def answering(work: Callable[..., Any], outputs: int) -> Callable[..., Any]:
    """A handler whose error becomes the text of its first output; the others stay as they are."""

    def handler(*values: Any) -> Any:
        try:
            return work(*values)
        except TrainerError as error:
            text = notice(str(error), "bad")
            return text if outputs == 1 else (text, *[UNCHANGED] * (outputs - 1))

    return handler


def result_of(job: Job, say: Words) -> Any:
    """Wait for a job and return its result. Raises ConfigError where it failed or was stopped."""
    result = job.take()
    if job.error or result is None:
        raise ConfigError(job.error or say("stopped", "已停止"))
    return result


def saved(baked: Baked, say: Words) -> str:
    """Where a new file is, and what its user should know."""
    path, findings = baked.file.path, [finding.text for finding in baked.findings]
    told = notice(say(f"Saved as {path}", f"已保存：{path}"))
    return told + notice(" ".join(findings), "warn")


def unseen_button(name: str) -> gr.Button:
    """A button for the page's script alone: it is there, but nobody sees it."""
    return gr.Button(value=name, elem_id=name, elem_classes=["lora-loop-unseen"])
