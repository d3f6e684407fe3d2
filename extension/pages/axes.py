"""A grid over any two axes: blocks and values, seeds, strengths, files, prompts."""

from typing import Any

import gradio as gr

from ...core.session import AXES, Axis, AxisKind
from ..gradio_versions import listen
from ..live import notice
from ..redraw import Easel
from ..words import Words
from .common import answering, result_of
from .drawing import DrawingForm

_START = {"x": ("values", "0, 0.5, 1"), "y": ("blocks", "IN04-IN08, M00, OUT03-OUT05")}


class AxesPanel:
    """Builds the panel, folded away below the pictures."""

    def __init__(self, easel: Easel, say: Words) -> None:
        self._easel, self._say = easel, say
        self._kinds: dict[str, AxisKind] = {
            say.text(words.label): kind for kind, words in AXES.items()
        }
        titles: dict[str, str] = {kind: title for title, kind in self._kinds.items()}
        self._axes: list[Any] = []
        with gr.Accordion(
            say("Grid over any axes", "任意坐标轴网格"), open=False, elem_id="lora_loop_axes"
        ):
            for name, (kind, entries) in _START.items():
                with gr.Row():
                    self._axes.append(
                        gr.Dropdown(
                            choices=list(self._kinds),
                            value=titles[kind],
                            label=say(*_TITLES[name]),
                            elem_id=f"lora_loop_axis_{name}",
                            interactive=True,
                            scale=1,
                            min_width=160,
                        )
                    )
                    self._axes.append(
                        gr.Textbox(
                            value=entries,
                            label=say("Entries, with commas or in lines", "各项，用逗号或换行分隔"),
                            elem_id=f"lora_loop_entries_{name}",
                            lines=1,
                            max_lines=8,
                            interactive=True,
                            scale=3,
                        )
                    )
            self._draw = gr.Button(
                say("Draw this grid", "生成此网格"), elem_id="lora_loop_axes_draw"
            )
            self._told = gr.HTML("", elem_id="lora_loop_axes_told")
        lines = [
            f"{say.text(words.label)}: {say.text(words.help)}"
            for kind, words in AXES.items()
            if kind != "none"
        ]
        self.help = {f"lora_loop_axis_{name}": "\n".join(lines) for name in _START}

    def connect(self, vector: Any, drawing: DrawingForm, sheet: Any) -> None:
        """Bind the handlers. vector: the weights it starts from. sheet: where it is shown."""
        self._drawing = drawing
        inputs = [vector, *self._axes, *drawing.widgets]
        listen(self._draw.click, answering(self._drawn, 2), inputs, [self._told, sheet])

    def _drawn(self, text: str, *shown: Any) -> tuple[str, Any]:
        (x, x_entries, y, y_entries), shown = shown[:4], shown[4:]
        preview = self._drawing.read(shown)
        job = self._easel.axes(preview, text, self._axis(x, x_entries), self._axis(y, y_entries))
        grid, path = result_of(job, self._say)
        warning = notice(self._easel.warning_of(grid), "warn")
        if grid.stopped:
            text = self._say("Stopped; this much was drawn.", "已停止，以下为已完成部分。")
            return notice(text, "warn") + warning, grid.image
        page = path.with_suffix(".html")
        told = self._say(
            f"The grid is {path}; {page.name} beside it compares its cells.",
            f"网格已保存：{path}；同名 {page.name} 可逐格对比。",
        )
        return notice(told) + warning, grid.image

    def _axis(self, title: str, entries: str) -> Axis:
        return Axis.of(self._kinds[title], entries) if title in self._kinds else Axis()


_TITLES = {"x": ("Across", "横轴"), "y": ("Down", "纵轴")}
