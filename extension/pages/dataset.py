"""The Dataset page: choose a folder, see what it will train as, and mend its captions."""

import html
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.session import Dataset, workbench
from ..gradio_versions import listen, make
from ..live import findings, notice
from .captions import CaptionEditor
from .common import Context, answering, result_of
from .train import TrainPage

EXAMPLE = Path(__file__).parents[2] / "core" / "demo" / "dataset"


class DatasetPage:
    """Builds the page."""

    def __init__(self, context: Context) -> None:
        self._desk, self._form, self._say = context.desk, context.form, context.say
        say = self._say
        with gr.Row():
            self._form.add("dataset.folder", scale=4)
            with gr.Column(scale=1, min_width=180):
                self._read_button = gr.Button(
                    say("Read the pictures", "读取图片"),
                    variant="primary",
                    elem_id="lora_loop_read",
                )
                self._example = gr.Button(
                    say("Take the example", "使用示例"), elem_id="lora_loop_example"
                )
        self._told = gr.HTML("", elem_id="lora_loop_dataset_told")
        with gr.Row():
            with gr.Column(scale=1, min_width=360):
                self._report = gr.HTML("", elem_id="lora_loop_report")
            with gr.Column(scale=1, min_width=360):
                self._sheet = make(
                    gr.Image,
                    label=say(
                        "As they are trained, cropped parts dimmed",
                        "训练时的样子（裁掉处变暗）",
                    ),
                    type="pil",
                    interactive=False,
                    elem_id="lora_loop_sheet",
                    show_label=True,
                )
        self._editor = CaptionEditor(context)

    def connect(self, train: TrainPage) -> None:
        """Bind the handlers, once every page has made its widgets."""
        folder, widgets = self._form["dataset.folder"], self._form.widgets
        outputs = [self._told, self._report, self._sheet, *self._editor.outputs]
        read = answering(self._read, len(outputs))
        plan = ([train.seen, *widgets], [train.plan_html, train.seen])
        done = listen(self._read_button.click, read, widgets, outputs)
        listen(done.then, train.plan_again, *plan)
        taken = listen(self._example.click, lambda: str(EXAMPLE), [], [folder])
        taken = listen(taken.then, read, widgets, outputs)
        listen(taken.then, train.plan_again, *plan)
        self._editor.connect()

    def _read(self, *shown: Any) -> tuple[Any, ...]:
        recipe = self._desk.placed(self._form.read(shown, {}))
        dataset: Dataset = result_of(self._desk.read(recipe.dataset), self._say)
        resolution = recipe.dataset.resolution or self._desk.resolution(recipe)
        report = workbench.dataset_report(dataset, recipe, resolution)
        told = self._say(
            f"{len(dataset.items)} pictures are ready.", f"已读取 {len(dataset.items)} 张图片。"
        )
        return (
            notice(told),
            findings(report.findings, self._say) + _plain(report.text),
            report.sheet,
            *self._editor.look(recipe.dataset.folder, recipe.dataset.caption_extension, "", 0),
        )


def _plain(text: str) -> str:
    return f'<pre class="lora-loop-report">{html.escape(text)}</pre>'
