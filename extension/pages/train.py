"""The Train page: presets, the settings that matter, all others folded, and what is going on."""

from typing import Any

import gradio as gr

from ...core.config import sections
from ..chart import Zoom
from ..gradio_versions import UNCHANGED, listen, make, update
from ..live import notice, plan_line
from ..presets import Preset, presets, save
from ..words import Words
from .common import Context, answering, unseen_button

NEEDED = ("output.name", "output.trigger")
SHAPE = ("network.rank", "network.alpha", "training.epochs", "training.batch_size")
RATES = ("optimizer.unet_lr", "optimizer.text_encoder_lr", "dataset.resolution")
ZOOMS = {"all": Zoom(), "half": Zoom(0.5), "tenth": Zoom(0.9)}


class TrainPage:
    """Builds the page; `plan` is what other pages call after they have changed the form."""

    def __init__(self, context: Context, plan: gr.HTML) -> None:
        self._context, self._say = context, context.say
        self._desk, self._form = context.desk, context.form
        self.plan_html = plan
        self.seen = gr.State("")
        with gr.Row():
            with gr.Column(scale=3, min_width=420):
                self._settings()
            with gr.Column(scale=2, min_width=360, elem_id="lora_loop_side"):
                self._side()

    def _settings(self) -> None:
        say, form = self._say, self._form
        self._presets()
        if self._desk.host.checkpoints():
            form.add("base.checkpoint")
        for names in (NEEDED, SHAPE, RATES):
            with gr.Row():
                for name in names:
                    form.add(name, min_width=150)
        form.add("preview.prompts")
        with gr.Accordion(
            say("All other settings", "其他全部设置"), open=False, elem_id="lora_loop_all"
        ):
            gr.Textbox(
                label=say("Search the settings", "搜索设置"),
                placeholder=say("a word of its name or its help", "名称或说明中的词"),
                elem_id="lora_loop_search",
                interactive=True,
            )
            titles = {name: say.text(cls.TITLE) for name, cls in sections().items()}
            for section, names in form.missing().items():
                with gr.Group(elem_classes=["lora-loop-section"]):
                    gr.HTML(f"<h4>{titles[section]}</h4>")
                    for start in range(0, len(names), 3):
                        with gr.Row():
                            for name in names[start : start + 3]:
                                form.add(name, min_width=150)

    def _presets(self) -> None:
        say = self._say
        with gr.Row():
            self.preset = gr.Dropdown(
                choices=list(self._preset_labels()),
                label=say("Start from", "预设"),
                elem_id="lora_loop_preset",
                interactive=True,
                value=None,
                scale=2,
            )
            self.preset_name = make(
                gr.Textbox,
                label=say("Keep these settings as", "把当前设置存为预设"),
                placeholder=say("name", "名称"),
                elem_id="lora_loop_preset_name",
                interactive=True,
                scale=1,
            )
            self.keep = gr.Button(say("Keep", "保存"), elem_id="lora_loop_preset_keep", scale=0)
        self.preset_help = gr.HTML("")

    def _preset_labels(self) -> dict[str, Preset]:
        own = self._desk.host.folders().data / "presets"
        return {self._say.text(preset.label): preset for preset in presets(own).values()}

    def _side(self) -> None:
        say = self._say
        with gr.Row():
            self.start = gr.Button(
                say("Start training", "开始训练"), variant="primary", elem_id="lora_loop_start"
            )
        waiting = list(self._desk.stopped.waiting())
        with gr.Group(visible=bool(waiting)) as self.resume_group:
            self.stopped = gr.Dropdown(
                choices=waiting,
                value=waiting[0] if waiting else None,
                label=say("Stopped trainings", "已停止的训练"),
                elem_id="lora_loop_stopped",
                interactive=True,
            )
            with gr.Row():
                self.go_on = gr.Button(say("Go on", "继续训练"), elem_id="lora_loop_resume")
                self.anew = gr.Button(say("Begin anew", "从头开始"), elem_id="lora_loop_anew")
        self.told = gr.HTML("", elem_id="lora_loop_told")
        self.zoom = gr.Radio(
            choices=zoom_labels(say),
            value=zoom_labels(say)[0],
            label=say("Chart shows", "曲线范围"),
            elem_id="lora_loop_zoom",
            interactive=True,
        )
        self.view = gr.HTML("", elem_id="lora_loop_view")
        self.samples = make(
            gr.Gallery,
            label=say("Pictures on the way", "训练途中的预览"),
            elem_id="lora_loop_samples",
            columns=1,
            height=280,
        )
        self.queue = gr.HTML("", elem_id="lora_loop_queue")

    # ---- behaviour ---------------------------------------------------------------------------

    def connect(self) -> None:
        """Bind the handlers, once every page has made its widgets."""
        widgets = self._form.widgets
        self.replan = unseen_button("lora_loop_replan")
        plan = ([self.seen, *widgets], [self.plan_html, self.seen])
        planned = listen(self.replan.click, self._plan, *plan, quick=True)
        # a slow plan may come after a newer one: what stands there is checked once more
        listen(planned.then, self._plan, *plan, quick=True)
        woken = listen(
            unseen_button("lora_loop_wake").click, self._woken, widgets, widgets, quick=True
        )
        listen(woken.then, self._plan, *plan, quick=True)
        chosen = listen(
            self.preset.input,
            answering(self._apply_preset, 1 + len(widgets)),
            [self.preset, *widgets],
            [self.preset_help, *widgets],
        )
        listen(chosen.then, self._plan, *plan)
        listen(
            self.keep.click,
            answering(self._keep_preset, 2),
            [self.preset_name, *widgets],
            [self.told, self.preset],
        )
        started = listen(
            self.start.click,
            answering(self._start, 2),
            widgets,
            [self.told, self._form["output.name"]],
        )
        listen(started.then, self._plan, *plan)
        for button, start in ((self.go_on, "resume"), (self.anew, "restart")):
            handler = answering(lambda name, start=start: self._again(name, start), 1)
            listen(button.click, handler, [self.stopped], [self.told])

    def _read(self, shown: tuple[Any, ...]) -> Any:
        return self._form.read(shown, self._desk.fixed())

    def _woken(self, *shown: Any) -> list[Any]:
        """A page that was loaded again shows the settings that were used last."""
        return self._form.changes(self._desk.first_recipe(), shown)

    def _plan(self, seen: str, *shown: Any) -> tuple[Any, Any]:
        """The plan, unless the form is as it was."""
        return (UNCHANGED, UNCHANGED) if repr(shown) == seen else self.plan_again(seen, *shown)

    def plan_again(self, _seen: str, *shown: Any) -> tuple[Any, Any]:
        """The plan, and what it is for."""

        def planned() -> str:
            plan = self._desk.plan(self._read(shown))
            self._desk.remember(plan.recipe)
            return plan_line(plan.event(), self._say)

        return answering(planned, 1)(), repr(shown)

    def _apply_preset(self, label: str, *shown: Any) -> tuple[Any, ...]:
        preset = self._preset_labels().get(label)
        if preset is None:
            return (UNCHANGED, *[UNCHANGED] * len(shown))
        recipe = preset.apply(self._form.read(shown, {}))
        text = self._say.text(preset.help)
        return (notice(text), *self._form.changes(recipe, shown))

    def _keep_preset(self, name: str, *shown: Any) -> tuple[Any, Any]:
        own = self._desk.host.folders().data / "presets"
        save(own, (name or "").strip(), self._read(shown))
        told = self._say(f"Kept as preset {name}.", f"已存为预设 {name}。")
        return notice(told), update(choices=list(self._preset_labels()))

    def _start(self, *shown: Any) -> tuple[str, str]:
        recipe = self._read(shown)
        job = self._desk.train(recipe)
        self._desk.remember(recipe)
        name = self._desk.next_name(recipe)
        ahead = self._desk.board.current() not in (None, job)
        told = self._say(
            f"{job.title} is {'in the queue' if ahead else 'starting'}. "
            f"The next one will be called {name}.",
            f"{job.title} 已{'排队' if ahead else '开始'}，下一个将命名为 {name}。",
        )
        return notice(told), name

    def _again(self, name: str, start: Any) -> str:
        recipe = self._desk.stopped.waiting().get(name)
        if recipe is None:
            return notice(
                self._say("There is nothing to go on with.", "没有可继续的训练。"), "warn"
            )
        job = self._desk.train(recipe, start)
        return notice(self._say(f"{job.title} goes on.", f"{job.title} 继续训练。"))


def zoom_labels(say: Words) -> list[str]:
    """The parts of the chart that can be looked at, in the order of `ZOOMS`."""
    return [
        say("the whole run", "全程"),
        say("the last half", "后一半"),
        say("the last tenth", "最后十分之一"),
    ]
