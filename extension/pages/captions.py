"""The caption editor: a grid of pictures, one caption at hand, rules and captioners for many."""

import html
from typing import Any

import gradio as gr

from ...core.errors import ConfigError
from ..captions import CaptionBook, Shown, caption_config, caption_fields, thumbnail
from ..gradio_versions import UNCHANGED, listen, make, update
from ..live import findings, notice
from ..widgets import hidden_data, widget
from .common import Context, answering, result_of

_RULES = ("trigger", "prefix", "suffix", "remove", "replace", "first", "sort", "unique", "match")
_MODEL = ("caption", "tagger", "blip")
_MOST_DIFF = 20_000  # letters


class CaptionEditor:
    """Builds the lower half of the Dataset page."""

    def __init__(self, context: Context) -> None:
        self._say, self._form = context.say, context.form
        self._book = CaptionBook(context.desk, context.say)
        self._widgets: dict[str, Any] = {}
        self._fields = {field.name: field for field in caption_fields((*_MODEL, "rules"))}
        self._page, self._pictures, self._chosen = gr.State(0), gr.State([]), gr.State("")
        with gr.Accordion(self._say("Captions", "标注"), open=True, elem_id="lora_loop_captions"):
            self._grid()
            self._many()
        texts = {field.element: field.help(self._say) for field in self._fields.values()}
        gr.HTML(hidden_data("lora_loop_help_captions", texts))

    def _grid(self) -> None:
        say = self._say
        with gr.Row():
            everything = self._book.filters()
            self._filter = gr.Dropdown(
                choices=list(everything),
                value=everything[0],
                label=say("Show", "显示"),
                elem_id="lora_loop_caption_filter",
                interactive=True,
                scale=3,
            )
            self._back = gr.Button("<", elem_id="lora_loop_caption_back", scale=0)
            self._next = gr.Button(">", elem_id="lora_loop_caption_next", scale=0)
        self._where = gr.HTML("", elem_id="lora_loop_caption_where")
        with gr.Row():
            self._gallery = make(
                gr.Gallery,
                label=say("Choose a picture", "选择图片"),
                elem_id="lora_loop_caption_grid",
                columns=6,
                height=360,
                allow_preview=False,
                object_fit="contain",
                scale=2,
            )
            with gr.Column(scale=1, min_width=260):
                self._text = gr.Textbox(
                    label=say("Its caption", "标注"),
                    lines=5,
                    elem_id="lora_loop_caption_text",
                    interactive=True,
                )
                self._save = gr.Button(
                    say("Save the caption", "保存标注"), elem_id="lora_loop_caption_save"
                )
                self._undo = gr.Button(
                    say("Undo the last change", "撤销上次更改"), elem_id="lora_loop_caption_undo"
                )
                self._told = gr.HTML("", elem_id="lora_loop_caption_told")

    def _many(self) -> None:
        say = self._say
        with gr.Accordion(
            say("Change many captions by rules", "按规则批量修改"),
            open=False,
            elem_id="lora_loop_caption_rules",
        ):
            self._rows([f"rules.{name}" for name in _RULES])
            with gr.Row():
                self._try_rules = gr.Button(
                    say("Show what would change", "预览更改"), elem_id="lora_loop_rules_try"
                )
                self._write_rules = gr.Button(
                    say("Change them", "执行修改"), elem_id="lora_loop_rules_write"
                )
        with gr.Accordion(
            say("Have captions written", "自动打标"), open=False, elem_id="lora_loop_captioner"
        ):
            names = [name for name in self._fields if not name.startswith("rules.")]
            self._rows(names)
            with gr.Row():
                self._try_model = gr.Button(
                    say("Show what would be written", "预览标注"), elem_id="lora_loop_caption_try"
                )
                self._write_model = gr.Button(
                    say("Write captions", "写入标注"), elem_id="lora_loop_caption_write"
                )
        self._changes = gr.HTML("", elem_id="lora_loop_caption_changes")

    def _rows(self, names: list[str]) -> None:
        for start in range(0, len(names), 3):
            with gr.Row():
                for name in names[start : start + 3]:
                    field = self._fields[name]
                    value = field.to_widget(field.setting.default, self._say)
                    self._widgets[name] = widget(field, self._say, value=value, min_width=150)

    # ---- behaviour ---------------------------------------------------------------------------

    @property
    def outputs(self) -> list[Any]:
        """What a look at the captions fills."""
        return [self._where, self._filter, self._gallery, self._pictures, self._page]

    def connect(self) -> None:
        """Bind the handlers."""
        place = [self._form["dataset.folder"], self._form["dataset.caption_extension"]]
        look = answering(self.look, len(self.outputs))
        view = [*place, self._filter, self._page]
        for event, step in ((self._back.click, -1), (self._next.click, 1)):
            turned = listen(
                event, lambda page, step=step: page + step, [self._page], [self._page], quick=True
            )
            listen(turned.then, look, view, self.outputs)
        listen(self._filter.input, look, view, self.outputs)
        picked = [self._chosen, self._text, self._told]
        listen(self._gallery.select, self._pick, [self._pictures], picked)
        saved = listen(
            self._save.click,
            answering(self._saved, 1),
            [*place, self._chosen, self._text],
            [self._told],
        )
        listen(saved.then, look, view, self.outputs)
        undone = listen(self._undo.click, answering(self._undone, 1), place[:1], [self._told])
        listen(undone.then, look, view, self.outputs)
        many = [*place, self._filter, *self._widgets.values()]
        for button, rules, dry in (
            (self._try_rules, True, True),
            (self._write_rules, True, False),
            (self._try_model, False, True),
            (self._write_model, False, False),
        ):
            work = answering(self._changing(rules=rules, dry_run=dry), 1)
            done = listen(button.click, work, many, [self._changes])
            if not dry:
                listen(done.then, look, view, self.outputs)

    def look(self, folder: str, extension: str, chosen: str, page: int) -> tuple[Any, ...]:
        """A page of the grid, for `outputs`."""
        shown = self._book.look(folder, extension, chosen, int(page or 0))
        pictures = [(thumbnail(item.picture), item.text or "—") for item in shown.items]
        paths = [(str(item.picture), item.text or "") for item in shown.items]
        return self._position(shown), update(choices=list(shown.tags)), pictures, paths, shown.page

    def _position(self, shown: Shown) -> str:
        text = self._say(
            f"{shown.total} pictures, page {shown.page + 1} of {shown.pages}",
            f"{shown.total} 张图片，第 {shown.page + 1} / {shown.pages} 页",
        )
        return f'<div class="lora-loop-words">{html.escape(text)}</div>'

    def _pick(self, pictures: Any, event: gr.SelectData) -> tuple[Any, Any, str]:
        place = event.index if isinstance(event.index, int) else event.index[0]
        if not 0 <= place < len(pictures):
            return UNCHANGED, UNCHANGED, ""
        path, text = pictures[place]
        name = path.replace("\\", "/").rpartition("/")[2]
        return path, text, f'<div class="lora-loop-words">{html.escape(name)}</div>'

    def _saved(self, folder: str, extension: str, picture: str, text: str) -> str:
        if not picture:
            raise ConfigError(self._say("choose a picture first", "请先选择图片"))
        report = self._book.write(folder, extension, picture, text or "")
        told = self._say("Saved.", "已保存。") if report.changes else self._same()
        return notice(told)

    def _same(self) -> str:
        return self._say("It was like that already.", "内容没有变化。")

    def _undone(self, folder: str) -> str:
        report = self._book.undo(folder)
        count = len(report.changes)
        return notice(
            self._say(f"{count} captions are as before.", f"已恢复 {count} 条标注。")
        ) + findings(report.findings, self._say)

    def _changing(self, *, rules: bool, dry_run: bool) -> Any:
        def handler(folder: str, extension: str, chosen: str, *shown: Any) -> str:
            values = {
                name: self._fields[name].from_widget(content, self._say)
                for name, content in zip(self._widgets, shown, strict=True)
            }
            if rules:
                values["caption.captioner"] = "none"
            config = caption_config(values, extension, dry_run=dry_run)
            job = self._book.change(folder, config, chosen)
            return self._changed(result_of(job, self._say))

        return handler

    def _changed(self, report: Any) -> str:
        diff = html.escape(report.diff()[:_MOST_DIFF])
        lines = f'<pre class="lora-loop-report">{diff}</pre>' if diff else ""
        return notice(report.summary()) + findings(report.findings, self._say) + lines
