"""Files made of others, on the Files page: merge, fold into a checkpoint, resize, extract."""

from typing import Any

import gradio as gr

from ..gradio_versions import listen
from ..jobs import Job
from ..live import notice
from ..words import Words
from ..workshop import Workshop
from .common import Context, answering, result_of


class MakingPanel:
    """Builds the panels; `made` is followed by a fresh list of files."""

    def __init__(self, context: Context) -> None:
        self._say = say = context.say
        self._workshop = Workshop(context.desk)
        with gr.Accordion(
            say("Merge, or fold into a checkpoint", "合并，或并入底模"),
            open=False,
            elem_id="lora_loop_merging",
        ):
            self._tags = _text(
                say,
                "tags",
                ("Networks, as a prompt names them", "网络，写法与提示词相同"),
                lines=2,
                placeholder="<lora:momo:0.8:lbw=NOFACE> <lora:style:0.5>",
            )
            with gr.Row():
                self._merge_rank = _number(
                    say, "merge_rank", ("Rank (0: exact)", "秩（0：精确）"), 0
                )
                self._merge_name = _text(
                    say, "merge_name", ("Name of the new LoRA", "新 LoRA 名称")
                )
                self._merge = gr.Button(say("Merge", "合并"), elem_id="lora_loop_merge")
            with gr.Row():
                self._into = _text(say, "into", ("Checkpoint, a file", "底模文件路径"))
                self._fold_name = _text(
                    say, "fold_name", ("Name of the new checkpoint", "新底模名称")
                )
                self._fold = gr.Button(say("Fold in", "并入底模"), elem_id="lora_loop_fold")
        with (
            gr.Accordion(
                say("Resize the file chosen above", "调整上方所选文件的秩"),
                open=False,
                elem_id="lora_loop_resizing",
            ),
            gr.Row(),
        ):
            self._rank = _number(say, "resize_rank", ("Rank at most", "最大秩"), 8)
            self._percent = _number(
                say, "resize_percent", ("Keep of each layer's norm, %", "保留每个模块范数的 %"), 99
            )
            self._resize_name = _text(say, "resize_name", ("Name of the new LoRA", "新 LoRA 名称"))
            self._resize = gr.Button(say("Resize", "调整"), elem_id="lora_loop_resize")
        with (
            gr.Accordion(
                say("Extract a LoRA from two checkpoints", "从两个底模提取 LoRA"),
                open=False,
                elem_id="lora_loop_extracting",
            ),
            gr.Row(),
        ):
            self._tuned = _text(say, "tuned", ("Tuned checkpoint, a file", "微调后的底模文件"))
            self._base = _text(say, "base", ("The checkpoint that it was", "原底模文件"))
            self._extract_rank = _number(say, "extract_rank", ("Rank", "秩"), 32)
            self._extract_name = _text(
                say, "extract_name", ("Name of the new LoRA", "新 LoRA 名称")
            )
            self._extract = gr.Button(say("Extract", "提取"), elem_id="lora_loop_extract")
        self._told = gr.HTML("", elem_id="lora_loop_made")

    def connect(self, file: Any) -> list[Any]:
        """Bind the handlers; the events after which there is a new file. file: the one chosen."""
        return [
            listen(button.click, answering(work, 1), inputs, [self._told])
            for button, work, inputs in (
                (self._merge, self._merged, [self._tags, self._merge_rank, self._merge_name]),
                (self._fold, self._folded, [self._tags, self._into, self._fold_name]),
                (
                    self._resize,
                    self._resized,
                    [file, self._rank, self._percent, self._resize_name],
                ),
                (
                    self._extract,
                    self._extracted,
                    [self._tuned, self._base, self._extract_rank, self._extract_name],
                ),
            )
        ]

    def _merged(self, tags: str, rank: float, name: str) -> str:
        return self._made(self._workshop.merge(tags, int(rank or 0), name))

    def _folded(self, tags: str, checkpoint: str, name: str) -> str:
        return self._made(self._workshop.fold(tags, checkpoint, name))

    def _resized(self, file: str | None, rank: float, percent: float, name: str) -> str:
        return self._made(self._workshop.resize(file or "", int(rank or 0), percent, name))

    def _extracted(self, tuned: str, base: str, rank: float, name: str) -> str:
        return self._made(self._workshop.extract(tuned, base, int(rank or 0), name))

    def _made(self, job: Job) -> str:
        made = result_of(job, self._say)
        return notice(self._say(f"Saved as {made}", f"已保存：{made}"))


def _text(
    say: Words, name: str, label: tuple[str, str], lines: int = 1, placeholder: str = ""
) -> Any:
    return gr.Textbox(
        label=say(*label),
        lines=lines,
        placeholder=placeholder,
        elem_id=f"lora_loop_{name}",
        interactive=True,
    )


def _number(say: Words, name: str, label: tuple[str, str], value: float) -> Any:
    return gr.Number(label=say(*label), value=value, elem_id=f"lora_loop_{name}", interactive=True)
