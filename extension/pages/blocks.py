"""The Blocks page: a slider for each block, the same seed redrawn, and what was found kept."""

from functools import partial
from typing import Any

import gradio as gr

from ...core.session import workbench
from ..gradio_versions import UNCHANGED, listen, make, update
from ..live import notice
from ..redraw import Drawn, Easel
from .axes import AxesPanel
from .common import Context, answering, result_of, unseen_button
from .drawing import DrawingForm, seed_of
from .keeping import KeepingPanel
from .own_presets import PresetsPanel
from .study import StudyPanel
from .train import TrainPage

LOW, HIGH = -1.0, 2.0
EVERY = workbench.ALL_BLOCKS
DRAWING = (
    *("negative_prompt", "sampler", "steps", "guidance", "seed", "width", "height"),
    *("host_sampler", "host_scheduler"),
)


class BlocksPage:
    """Builds the page; `look` shows the network at hand on it."""

    def __init__(self, context: Context) -> None:
        self._desk, self._say = context.desk, context.say
        self._easel = Easel(context.desk)
        self._drawing = DrawingForm(context)
        self.seen = gr.State("")
        self.looked: list[Any] = []
        self._about = gr.HTML("", elem_id="lora_loop_blocks_about")
        with gr.Row():
            with gr.Column(scale=2, min_width=420):
                self._weights()
                self._own = PresetsPanel(self._easel, self._say)
            with gr.Column(scale=3, min_width=420):
                self._pictures()
                self.seed = self._drawing["seed"]
                self._keeping = KeepingPanel(context, self._easel, self.seed)
        self._axes = AxesPanel(self._easel, self._say)
        self._study = StudyPanel(self._easel, self._say)

    def _weights(self) -> None:
        say = self._say
        with gr.Row():
            self._preset = gr.Dropdown(
                choices=self._easel.preset_names(),
                label=say("Preset", "预设"),
                value="ALL",
                elem_id="lora_loop_blocks_preset",
                interactive=True,
            )
            self._at_once = gr.Checkbox(
                label=say("Redraw at once", "立即重绘"),
                value=True,
                elem_id="lora_loop_at_once",
                interactive=True,
            )
        self._vector = gr.Textbox(
            label=say(
                "Weights: preset, vector or ranges (IN04-IN08=0.5)",
                "权重：预设名、向量或范围（IN04-IN08=0.5）",
            ),
            value="ALL",
            lines=2,
            elem_id="lora_loop_vector",
            interactive=True,
        )
        self._sliders: dict[str, Any] = {}
        with gr.Row(elem_id="lora_loop_sliders"):
            for title, blocks in _columns(say):
                with gr.Column(min_width=120):
                    gr.HTML(f'<div class="lora-loop-column">{title}</div>')
                    for block in blocks:
                        self._sliders[block] = gr.Slider(
                            minimum=LOW,
                            maximum=HIGH,
                            step=0.05,
                            value=1.0,
                            label=block,
                            elem_id=f"lora_loop_block_{block}",
                            interactive=True,
                            visible=block in workbench.ATTENTION_BLOCKS,
                        )

    def _pictures(self) -> None:
        say = self._say
        self._drawing.add("prompts", lines=2)
        with gr.Accordion(say("How it is drawn", "出图设置"), open=False):
            names = self._drawing.offered(DRAWING)
            for start in range(0, len(names), 3):
                with gr.Row():
                    for name in names[start : start + 3]:
                        self._drawing.add(name, min_width=130)
            self._drawing.add("presets", label=say("Columns of the grid", "网格的列"))
        with gr.Row():
            self._redraw = gr.Button(
                say("Redraw", "重绘"), variant="primary", elem_id="lora_loop_redraw"
            )
            self._grid = gr.Button(say("Draw the grid", "生成网格"), elem_id="lora_loop_grid")
        self._told = gr.HTML("", elem_id="lora_loop_blocks_told")
        self._gallery = make(
            gr.Gallery,
            label=say(
                "Same seed: base model, whole LoRA, yours", "同一种子：底模、完整 LoRA、当前"
            ),
            elem_id="lora_loop_pictures",
            columns=3,
            height="auto",
            object_fit="contain",
        )
        self._sheet = make(
            gr.Image,
            label=say("Grid", "网格"),
            type="pil",
            interactive=False,
            elem_id="lora_loop_grid_image",
        )

    # ---- behaviour ---------------------------------------------------------------------------

    def connect(self, train: TrainPage) -> None:
        """Bind the handlers."""
        drawing = self._drawing.widgets
        shown = [self._told, self._gallery]
        redraw = answering(self._redrawn, len(shown))
        self._ask, self._shown = [self._vector, *drawing], shown
        self._redraw_at_once = self._if_at_once(redraw)
        for block, slider in self._sliders.items():
            moved = answering(partial(self._moved, block), 2)
            asks, told = [slider, self._vector, self.seed], [self._told, self._vector]
            listen(slider.input, moved, asks, told, quick=True)
            self._after_choice(listen(slider.release, moved, asks, told))
        self._choose_by(self._preset.input, self._preset)
        self._choose_by(self._vector.submit, self._vector)
        listen(self._vector.input, self._keeping.shown, *self._keeping.asks(self._vector))
        drawn = listen(self._redraw.click, redraw, self._ask, shown)
        listen(drawn.then, self._keeping.shown, *self._keeping.asks(self._vector))
        listen(self._grid.click, answering(self._grid_drawn, 2), drawing, [self._told, self._sheet])
        self._keeping.connect(self._vector, train)
        self._own.connect(self._vector, self._preset)
        self._axes.connect(self._vector, self._drawing, self._sheet)
        self._study.connect(self._drawing)
        self._choose_by(self._study.use.click, self._study.found)
        self.looked = [
            *(self.seen, self._about, self._preset, self._drawing["prompts"]),
            *(*self._keeping.texts, *self._sliders.values()),
        ]
        self.look_asks = [self.seen, *self._keeping.asks(self._vector)[0]]
        look = unseen_button("lora_loop_look")
        listen(look.click, self.look, self.look_asks, self.looked, quick=True)
        gr.HTML(self._drawing.help({**self._axes.help, **self._study.help, **self._keeping.help}))

    def _choose_by(self, event: Any, source: Any) -> None:
        """Take the weights that `source` names: into the field, the sliders, and the pictures."""
        sliders = list(self._sliders.values())
        spread = answering(self._spread, 2 + len(sliders))
        shown = [self._told, self._vector, *sliders]
        self._after_choice(listen(event, spread, [source, self.seed], shown))

    def _after_choice(self, event: Any) -> None:
        """Name what was chosen, and redraw where that is wanted."""
        named = listen(event.then, self._keeping.shown, *self._keeping.asks(self._vector))
        listen(named.then, self._redraw_at_once, [self._at_once, *self._ask], self._shown)

    def look(self, seen: str, text: str, dialect: str, seed: str) -> tuple[Any, ...]:
        """Show another network's name and sliders, where there is another one.

        The weights that stand in the field are kept, and named for it.
        """
        live = self._desk.live
        now = "" if live is None else f"{live.number}"
        if live is None or now == seen:
            return (now, *[UNCHANGED] * (5 + len(self._sliders)))
        order = self._easel.order()
        about = self._say(
            f"{live.name}: {len(live.network.paths)} layers in {len(live.network.blocks())} blocks",
            f"{live.name}：{len(live.network.blocks())} 个分层共 {len(live.network.paths)} 个模块",
        )
        prompts = "\n".join(live.recipe.preview.prompts)
        return (
            now,
            notice(about),
            update(choices=self._easel.preset_names()),
            prompts if prompts else UNCHANGED,
            *self._keeping.shown(text, dialect, seed),
            *(update(visible=block in order) for block in self._sliders),
        )

    def _moved(self, block: str, value: float, text: str, seed: str) -> tuple[str, str]:
        """The moved slider's value in the field; no other slider is read, as it may show less."""
        return "", self._easel.moved(text, seed_of(seed), block, value)

    def _spread(self, text: str, seed: str) -> tuple[Any, ...]:
        weights = self._easel.parsed(text, seed_of(seed))
        return (
            "",
            text,
            *(min(max(weights.ratio(block), LOW), HIGH) for block in self._sliders),
        )

    def _if_at_once(self, redraw: Any) -> Any:
        def handler(at_once: bool, *values: Any) -> Any:
            if not at_once or self._desk.live is None:
                return UNCHANGED, UNCHANGED
            return redraw(*values)

        return handler

    def _redrawn(self, text: str, *shown: Any) -> tuple[str, Any]:
        preview = self._drawing.read(shown)
        weights = self._easel.weights(text, preview.seed)
        drawn: Drawn = result_of(self._easel.redraw(weights, preview), self._say)
        say = self._say
        pictures = []
        for row, prompt in enumerate(preview.prompts):
            percent = say(
                f"{drawn.label} · {drawn.changed[row]:.0f} % changed",
                f"{drawn.label} · 变化 {drawn.changed[row]:.0f}%",
            )
            pictures += [
                (drawn.alone[row], say("base model: ", "底模：") + prompt),
                (drawn.whole[row], say("whole LoRA", "完整 LoRA")),
                (drawn.chosen[row], percent),
            ]
        return notice(drawn.warning, "warn"), pictures

    def _grid_drawn(self, *shown: Any) -> tuple[str, Any]:
        grid, path = result_of(self._easel.grid(self._drawing.read(shown)), self._say)
        text = self._say(f"The grid is {path}", f"网格已保存：{path}")
        if grid.stopped:
            text = self._say("Stopped; this much was drawn.", "已停止，以下为已完成部分。")
        told = notice(text, "warn" if grid.stopped else "good")
        return told + notice(self._easel.warning_of(grid), "warn"), grid.image


def _columns(say: Any) -> list[tuple[str, list[str]]]:
    ins = [block for block in EVERY if block.startswith("IN")]
    outs = [block for block in EVERY if block.startswith("OUT")]
    return [
        (say("text and input", "文本与输入层"), ["BASE", *ins]),
        (say("middle and output", "中间与输出层"), ["M00", *outs]),
    ]
