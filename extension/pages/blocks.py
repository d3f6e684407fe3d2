"""The Blocks page: a slider for each block, the same seed redrawn, and what was found kept."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ...core.config import PreviewConfig, from_mapping
from ...core.errors import ConfigError
from ...core.session import workbench
from ..fields import Field, all_fields
from ..gradio_versions import UNCHANGED, listen, make, update
from ..live import notice
from ..places import free_name
from ..redraw import Drawn, Easel
from ..widgets import hidden_data, widget
from .common import Context, answering, unseen_button

LOW, HIGH = -1.0, 2.0
EVERY = workbench.ALL_BLOCKS
DRAWING = ("negative_prompt", "sampler", "steps", "guidance", "seed", "width", "height")


class BlocksPage:
    """Builds the page; `look` shows the network at hand on it."""

    def __init__(self, context: Context) -> None:
        self._desk, self._say = context.desk, context.say
        self._easel = Easel(context.desk)
        self._fields = {f.setting.name: f for f in all_fields() if f.section == "preview"}
        self._widgets: dict[str, Any] = {}
        self.seen = gr.State("")
        self.looked: list[Any] = []
        self._about = gr.HTML("", elem_id="lora_loop_blocks_about")
        with gr.Row():
            with gr.Column(scale=2, min_width=420):
                self._weights()
            with gr.Column(scale=3, min_width=420):
                self._pictures()

    def _weights(self) -> None:
        say = self._say
        with gr.Row():
            self._preset = gr.Dropdown(
                choices=list(workbench.preset_names()),
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
        self._add("prompts", lines=2)
        with gr.Accordion(say("How it is drawn", "出图设置"), open=False):
            for start in range(0, len(DRAWING), 3):
                with gr.Row():
                    for name in DRAWING[start : start + 3]:
                        self._add(name, min_width=130)
            self._add("presets", label=say("Columns of the grid", "网格的列"))
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
        with gr.Row():
            self._tag = make(
                gr.Textbox,
                label=say("For a prompt elsewhere", "用于其他程序的提示词"),
                value="",
                interactive=False,
                elem_id="lora_loop_tag",
                show_copy_button=True,
                buttons=["copy"],
            )
        with gr.Row():
            self._name = gr.Textbox(
                label=say("Name of the new file", "新文件名"),
                elem_id="lora_loop_bake_name",
                interactive=True,
                scale=3,
            )
            self._save = gr.Button(say("Save as LoRA", "另存为 LoRA"), elem_id="lora_loop_bake")

    def _add(self, name: str, **options: Any) -> None:
        field = self._fields[name]
        shown = self._desk.first_recipe().preview
        value = field.to_widget(getattr(shown, name), self._say)
        options = {"elem_id": _element(field), "value": value, **options}
        self._widgets[name] = widget(field, self._say, **options)

    # ---- behaviour ---------------------------------------------------------------------------

    def connect(self) -> None:
        """Bind the handlers."""
        sliders, drawing = list(self._sliders.values()), list(self._widgets.values())
        shown = [self._told, self._gallery]
        told = [self._tag, self._name]
        redraw = answering(self._redrawn, len(shown))
        ask = [self._vector, *drawing]
        for slider in sliders:
            listen(slider.input, self._from_sliders, sliders, [self._vector], quick=True)
            moved = listen(slider.release, self._from_sliders, sliders, [self._vector])
            named = listen(moved.then, self._tags, [self._vector], told)
            listen(named.then, self._if_at_once(redraw), [self._at_once, *ask], shown)
        spread = answering(self._spread, 2 + len(sliders))
        for event in (self._preset.input, self._vector.submit):
            source = self._preset if event == self._preset.input else self._vector
            chosen = listen(event, spread, [source], [self._told, self._vector, *sliders])
            named = listen(chosen.then, self._tags, [self._vector], told)
            listen(named.then, self._if_at_once(redraw), [self._at_once, *ask], shown)
        drawn = listen(self._redraw.click, redraw, ask, shown)
        listen(drawn.then, self._tags, [self._vector], told)
        listen(self._grid.click, answering(self._grid_drawn, 2), drawing, [self._told, self._sheet])
        listen(
            self._save.click,
            answering(self._saved, 1),
            [self._vector, self._name, self._widgets["seed"]],
            [self._told],
        )
        self.looked = [self.seen, self._about, self._preset, *drawing[:1], *told, *sliders]
        look = unseen_button("lora_loop_look")
        listen(look.click, self.look, [self.seen], self.looked, quick=True)
        gr.HTML(hidden_data("lora_loop_help_blocks", self._help()))

    def _help(self) -> dict[str, str]:
        return {
            _element(f): f.help(self._say) for n, f in self._fields.items() if n in self._widgets
        }

    def _preview(self, shown: Sequence[Any]) -> PreviewConfig:
        """The drawing settings. Raises ConfigError, also where there is nothing to draw."""
        values = {
            name: self._fields[name].from_widget(content, self._say)
            for name, content in zip(self._widgets, shown, strict=True)
        }
        preview = from_mapping(PreviewConfig, values, "preview")
        if not preview.prompts:
            raise ConfigError("preview.prompts is empty: write what is to be drawn")
        return preview

    def look(self, seen: str) -> tuple[Any, ...]:
        """Show another network's name and sliders, where there is another one."""
        live = self._desk.live
        now = "" if live is None else f"{id(live)}"
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
            update(choices=list(workbench.preset_names(live.family))),
            prompts if prompts else UNCHANGED,
            *self._tags("ALL"),
            *(update(visible=block in order) for block in self._sliders),
        )

    def _from_sliders(self, *values: float) -> str:
        blocks = dict(zip(self._sliders, values, strict=True))
        order = self._easel.order() if self._desk.live else workbench.ATTENTION_BLOCKS
        return ",".join(f"{blocks[block]:g}" for block in order)

    def _spread(self, text: str) -> tuple[Any, ...]:
        weights = self._parsed(text)
        return (
            "",
            text,
            *(min(max(weights.ratio(block), LOW), HIGH) for block in self._sliders),
        )

    def _parsed(self, text: str, seed: int = 1) -> workbench.BlockWeights:
        if self._desk.live is None:
            return workbench.BlockWeights.parse(text, seed=seed)
        return self._easel.weights(text, seed)

    def _if_at_once(self, redraw: Any) -> Any:
        def handler(at_once: bool, *values: Any) -> Any:
            if not at_once or self._desk.live is None:
                return UNCHANGED, UNCHANGED
            return redraw(*values)

        return handler

    def _redrawn(self, text: str, *shown: Any) -> tuple[str, Any]:
        preview = self._preview(shown)
        weights = self._easel.weights(text, preview.seed)
        job = self._easel.redraw(weights, preview)
        job.over.wait()
        drawn: Drawn | None = job.result
        if job.error or drawn is None:
            raise ConfigError(job.error or self._say("stopped", "已停止"))
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
        return "", pictures

    def _grid_drawn(self, *shown: Any) -> tuple[str, Any]:
        job = self._easel.grid(self._preview(shown))
        job.over.wait()
        if job.error:
            raise ConfigError(job.error)
        grid, path = job.result
        text = self._say(f"The grid is {path}", f"网格已保存：{path}")
        if grid.stopped:
            text = self._say("Stopped; this much was drawn.", "已停止，以下为已完成部分。")
        return notice(text, "warn" if grid.stopped else "good"), grid.image

    def _tags(self, text: str) -> tuple[str, str]:
        """The tag for a prompt, and a name for the file, both of what is chosen."""
        live = self._desk.live
        if live is None:
            return "", ""
        try:
            weights = self._easel.weights(text)
        except ConfigError:
            return "", ""
        label = weights.label if weights.label in workbench.preset_names(live.family) else ""
        folder = self._desk.host.folders().networks
        short = "".join(letter for letter in label if letter.isalnum()) or "blocks"
        tag = f"<lora:{live.name}:1:lbw={label or weights.text()}>"
        return tag, free_name(folder, f"{live.name}-{short}")

    def _saved(self, text: str, name: str, seed: str) -> str:
        live = self._easel.live()
        if live.path is None:
            raise ConfigError(f"{live.name} has no file yet: train at least one step")
        seed_value = int(seed) if str(seed).isdigit() else 1
        path = self._desk.bake(live.path, self._easel.weights(text, seed_value), name)
        return notice(self._say(f"Saved as {path}", f"已保存：{path}"))


def _columns(say: Any) -> list[tuple[str, list[str]]]:
    ins = [block for block in EVERY if block.startswith("IN")]
    outs = [block for block in EVERY if block.startswith("OUT")]
    return [
        (say("text and input", "文本与输入层"), ["BASE", *ins]),
        (say("middle and output", "中间与输出层"), ["M00", *outs]),
    ]


def _element(field: Field) -> str:
    return f"lora_loop_draw_{field.setting.name}"
