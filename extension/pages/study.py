"""What each block does, as charts; and weights that keep one part of it and give up another."""

import html
from typing import Any

import gradio as gr

from ...core.session import study
from ..gradio_versions import UNCHANGED, listen, make, painted, painter
from ..jobs import Job
from ..live import notice
from ..redraw import Easel
from ..study import Answer, Study
from ..words import Words
from .common import answering, result_of
from .drawing import DrawingForm

_CANVAS = 512  # pixels: small pictures are enlarged to be painted on


class StudyPanel:
    """Builds the panel; `use` is pressed to take the weights that stand in `found`."""

    def __init__(self, easel: Easel, say: Words) -> None:
        self._easel, self._say = easel, say
        self._study = Study(easel, say.language)
        with gr.Accordion(
            say("What each block does", "各层的作用"), open=False, elem_id="lora_loop_study"
        ):
            self._questions()
            self._told = gr.HTML("", elem_id="lora_loop_study_told")
            self._chart = make(
                gr.Image,
                label=say("What was found", "结果"),
                type="pil",
                interactive=False,
                elem_id="lora_loop_study_chart",
            )
            self._table = gr.HTML("", elem_id="lora_loop_study_table")
            self._suggestion()

    def _questions(self) -> None:
        say = self._say
        with gr.Row():
            self._samples = gr.Number(
                label=say("Samples", "样本数"),
                value=8,
                precision=0,
                elem_id="lora_loop_study_samples",
                interactive=True,
            )
            self._on_pictures = gr.Checkbox(
                label=say("Measure on the training's pictures", "用训练图片测量"),
                value=False,
                elem_id="lora_loop_study_on_pictures",
                interactive=True,
            )
            self._measure = gr.Button(
                say("Measure, without drawing", "测量（不出图）"), elem_id="lora_loop_measure"
            )
        with gr.Row():
            self._value = gr.Number(
                label=say("Value of the block that is looked at", "所考察层的数值"),
                value=0.5,
                elem_id="lora_loop_study_value",
                interactive=True,
            )
            self._analyze = gr.Button(
                say("Draw a picture for each block", "逐层出图"), elem_id="lora_loop_analyze"
            )
        self.help = {
            "lora_loop_study_samples": say(
                "How many noisy latents the network is measured on. More is surer and slower: each "
                "costs two passes of the U-Net for every block.",
                "用多少个带噪潜变量测量。越多越可靠也越慢：每个样本每层需要 U-Net 运行两次。",
            ),
            "lora_loop_study_value": say(
                "All blocks at 1 are compared with one block at this value, one picture a block. "
                "0 shows what the block does; 0.5 is how the lora-block-weight analyzer starts.",
                "将所有层为 1 的图与某层取此值的图比较，每层一张。0 显示该层的全部作用；0.5 与 "
                "lora-block-weight 分析器的初始值相同。",
            ),
        }

    def _suggestion(self) -> None:
        say = self._say
        with gr.Accordion(
            say(
                "Keep the style, give up a part (suggested weights)",
                "保留画风、舍弃局部（推荐权重）",
            ),
            open=False,
            elem_id="lora_loop_suggestion",
        ):
            hint = say(
                "Draw the picture, paint over the part that is to change less (a face), and ask.",
                "先出图，涂抹希望少变化的部位（如脸部），再求推荐权重。",
            )
            gr.HTML(f'<div class="lora-loop-hint">{hint}</div>')
            with gr.Row():
                self._outside = _share(say("Keep outside, %", "部位外保留 %"), 95, "outside")
                self._inside = _share(say("At most inside, %", "部位内至多 %"), 40, "inside")
                self._seeds = gr.Number(
                    label=say("Seeds to search on", "搜索用种子数"),
                    value=2,
                    precision=0,
                    elem_id="lora_loop_suggest_seeds",
                    interactive=True,
                )
            self._mask = painter(label=say("Paint the part", "涂抹部位"), elem_id="lora_loop_mask")
            with gr.Row():
                self._canvas = gr.Button(
                    say("Draw the picture to paint on", "生成用于涂抹的图"),
                    elem_id="lora_loop_canvas",
                )
                self._suggest = gr.Button(
                    say("Suggest weights", "推荐权重"), elem_id="lora_loop_suggest"
                )
            self._answer = gr.HTML("", elem_id="lora_loop_suggest_told")
            with gr.Row():
                self.found = gr.Textbox(
                    label=say("Suggested", "推荐的权重"),
                    elem_id="lora_loop_suggested",
                    interactive=False,
                    scale=3,
                )
                self.use = gr.Button(
                    say("Use these weights", "采用"), elem_id="lora_loop_suggest_use"
                )
            self._proof = make(
                gr.Image,
                label=say("Proof, with other seeds", "用其他种子验证"),
                type="pil",
                interactive=False,
                elem_id="lora_loop_suggest_proof",
            )

    def connect(self, drawing: DrawingForm) -> None:
        """Bind the handlers; `drawing` says how pictures are drawn."""
        self._drawing = drawing
        outputs = [self._told, self._chart, self._table]
        listen(
            self._measure.click,
            answering(self._measured, len(outputs)),
            [self._samples, self._on_pictures],
            outputs,
        )
        listen(
            self._analyze.click,
            answering(self._analyzed, len(outputs)),
            [self._value, self._mask, *drawing.widgets],
            outputs,
        )
        listen(
            self._canvas.click,
            answering(self._painted_on, 2),
            drawing.widgets,
            [self._answer, self._mask],
        )
        listen(
            self._suggest.click,
            answering(self._suggested, 3),
            [self._mask, self._outside, self._inside, self._seeds, *drawing.widgets],
            [self._answer, self.found, self._proof],
        )

    def _measured(self, samples: float, on_pictures: bool) -> tuple[Any, ...]:
        return self._charted(self._study.measure(int(samples or 0), on_pictures=on_pictures))

    def _analyzed(self, value: float, mask: Any, *shown: Any) -> tuple[Any, ...]:
        preview = self._drawing.read(shown)
        return self._charted(self._study.analyze(preview, float(value or 0), painted(mask)))

    def _charted(self, job: Job) -> tuple[Any, ...]:
        answer: Answer = result_of(job, self._say)
        return self._written(answer), answer.picture, _preformatted(answer.text)

    def _painted_on(self, *shown: Any) -> tuple[Any, ...]:
        preview = self._drawing.read(shown)
        job = self._easel.redraw(self._easel.weights("ALL"), preview)
        picture = result_of(job, self._say).whole[0]
        times = max(1, round(_CANVAS / max(picture.size)))
        return "", picture.resize((picture.width * times, picture.height * times))

    def _suggested(
        self, mask: Any, outside: float, inside: float, seeds: float, *shown: Any
    ) -> tuple[Any, ...]:
        preview = self._drawing.read(shown)
        kept = study.Kept(inside=inside / 100, outside=outside / 100)
        job = self._study.suggest(preview, painted(mask), kept, int(seeds or 0))
        answer: Answer = result_of(job, self._say)
        weights = answer.weights.text() if answer.weights else UNCHANGED
        return self._written(answer) + _preformatted(answer.text), weights, answer.picture

    def _written(self, answer: Answer) -> str:
        names = ", ".join(map(str, answer.files))
        return notice(self._say(f"Written: {names}", f"已保存：{names}"))


def _share(label: str, value: float, name: str) -> Any:
    return gr.Slider(
        minimum=0,
        maximum=100,
        step=1,
        value=value,
        label=label,
        elem_id=f"lora_loop_suggest_{name}",
        interactive=True,
    )


def _preformatted(text: str) -> str:
    return f'<pre class="lora-loop-report">{html.escape(text)}</pre>'
