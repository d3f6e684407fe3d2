"""The tab: the plan and the current job above, a page for each part of the loop below."""

from dataclasses import replace
from typing import Any

import gradio as gr
from PIL import Image

from ..core.config import EMBEDDED
from .desk import Desk
from .gradio_versions import UNCHANGED, listen, update
from .jobs import OVER, Job
from .live import job_strip, queue_list, training_view
from .pages.blocks import BlocksPage
from .pages.common import Context, unseen_button
from .pages.dataset import DatasetPage
from .pages.files import FilesPage
from .pages.train import ZOOMS, TrainPage, zoom_labels
from .widgets import Form, hidden_data
from .words import Words

_MOST_PICTURES = 12
_LISTED = frozenset({"train", "caption"})  # jobs that users wait for and look back to


class Tab:
    """Builds the pages inside of an open `gr.Blocks` and binds them to a desk."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._say = say = Words(desk.host.language())
        recipe = desk.first_recipe()
        own_choice = bool(desk.host.checkpoints())
        if not own_choice:
            recipe = replace(recipe, base=replace(recipe.base, checkpoint=EMBEDDED))
        form = Form(recipe, say, desk.host)
        context = Context(desk, form, say)
        with gr.Column(elem_id="lora_loop", elem_classes=["lora-loop"]):
            self._top()
            with gr.Tabs(elem_id="lora_loop_pages"):
                with gr.TabItem(say("Dataset", "数据集"), elem_id="lora_loop_page_dataset"):
                    dataset = DatasetPage(context)
                with gr.TabItem(say("Train", "训练"), elem_id="lora_loop_page_train"):
                    self._train = TrainPage(context, self._plan)
                with gr.TabItem(say("Blocks", "分层"), elem_id="lora_loop_page_blocks"):
                    self._blocks = BlocksPage(context)
                with gr.TabItem(say("Files", "文件"), elem_id="lora_loop_page_files"):
                    files = FilesPage(context)
            gr.HTML(form.help())
            gr.HTML(hidden_data("lora_loop_words", _script_words(say)))
        self._train.connect()
        dataset.connect(self._train)
        self._blocks.connect(self._train)
        files.connect(self._train, self._blocks)
        self._connect()

    def _top(self) -> None:
        say = self._say
        with gr.Column(elem_id="lora_loop_top"):
            # the first plan imports what trains, which takes seconds
            reading = say("Reading the settings …", "正在读取设置……")
            self._plan = gr.HTML(
                f'<div class="lora-loop-hint">{reading}</div>', elem_id="lora_loop_plan"
            )
            with gr.Row():
                self._strip = gr.HTML(job_strip(None, 0, say), elem_id="lora_loop_strip")
                with gr.Row(elem_id="lora_loop_strip_buttons"):
                    self._stop = gr.Button(
                        say("Stop and save", "停止并保存"), elem_id="lora_loop_stop", scale=0
                    )
                    self._pause = gr.Button(
                        say("Pause", "暂停"), elem_id="lora_loop_pause", scale=0
                    )
                    self._go_on = gr.Button(
                        say("Go on", "继续"), elem_id="lora_loop_go_on", scale=0
                    )

    def _connect(self) -> None:
        self._seen = gr.State(None)
        poll = unseen_button("lora_loop_poll")
        page = self._train
        shown = [self._strip, page.view, page.samples, page.queue]
        outputs = [*shown, page.resume_group, page.stopped, self._seen]
        listen(poll.click, self._poll, [self._seen, page.zoom], outputs, quick=True)
        for button, work in (
            (self._stop, self._desk.board.stop),
            (self._pause, self._desk.board.pause),
            (self._go_on, self._desk.board.go_on),
        ):
            listen(button.click, lambda work=work: self._order(work), [], [self._strip], quick=True)

    def _job(self) -> Job | None:
        """The current job, else the newest that is over."""
        jobs = [job for job in self._desk.board.jobs() if job.state != "waiting"]
        return next(iter(jobs), None)

    def _training(self) -> Job | None:
        """The training to show: the current one, else the newest."""
        jobs = [job for job in self._desk.board.jobs() if job.state != "waiting"]
        return next((job for job in jobs if job.kind == "train"), None)

    def _order(self, work: Any) -> str:
        job = self._desk.board.current()
        if job is not None:
            work(job.number)
        return self._strip_html()

    def _strip_html(self) -> str:
        waiting = sum(job.state == "waiting" for job in self._desk.board.jobs())
        return job_strip(self._job(), waiting, self._say)

    def _poll(self, seen: Any, zoom: str) -> tuple[Any, ...]:
        """Everything that moves; what the page has seen already is not sent again."""
        job = self._training()
        now = job.progress.snapshot() if job else None
        others = [
            other
            for other in self._desk.board.jobs()
            if other.kind in _LISTED and other.state in OVER | {"waiting"}
        ]
        chart = (job.number, job.state, len(now.log), now.step, zoom) if job and now else (zoom,)
        pictures = now.pictures[-_MOST_PICTURES:] if now else ()
        queue = [(other.number, other.state) for other in others]
        stopped = list(self._desk.stopped.waiting()) if self._desk.board.current() is None else None
        fresh = [list(chart), [str(path) for _, path in pictures], queue, stopped]
        old = seen if isinstance(seen, list) and len(seen) == len(fresh) else [None] * len(fresh)
        labels = zoom_labels(self._say)
        part = list(ZOOMS.values())[labels.index(zoom) if zoom in labels else 0]
        resume_group = resume_choice = UNCHANGED
        if stopped is not None and stopped != old[3]:
            resume_group = update(visible=bool(stopped))
            resume_choice = update(choices=stopped, value=stopped[0] if stopped else None)
        return (
            self._strip_html(),
            UNCHANGED if fresh[0] == old[0] else training_view(job, part, self._say),
            UNCHANGED if fresh[1] == old[1] else _opened(pictures),
            UNCHANGED if fresh[2] == old[2] else queue_list(others, self._say),
            resume_group,
            resume_choice,
            fresh,
        )


def _opened(pictures: Any) -> list[tuple[Image.Image, str]]:
    """Pictures with their step, the newest first; one that is gone is left out."""
    found = []
    for step, path in reversed(pictures):
        if path.is_file():
            with Image.open(path) as picture:
                found.append((picture.convert("RGB"), str(step)))
    return found


def _script_words(say: Words) -> dict[str, str]:
    return {
        "help": say("What is this?", "这是什么？"),
        "none": say("No setting has this word.", "没有包含该词的设置。"),
        "copied": say("Copied", "已复制"),
    }
