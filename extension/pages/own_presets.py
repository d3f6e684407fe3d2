"""Presets of one's own: the weights at hand under a name, and files to share them."""

from typing import Any

import gradio as gr

from ...core.errors import FileError
from ..gradio_versions import listen, make, update
from ..live import notice
from ..redraw import Easel
from ..words import Words
from .common import answering


class PresetsPanel:
    """Builds the panel, folded away below the sliders."""

    def __init__(self, easel: Easel, say: Words) -> None:
        self._easel, self._say = easel, say
        own, text, wrong = easel.own_presets(), "", ""
        try:
            text = easel.desk.presets.text()
        except FileError as error:
            wrong = notice(str(error), "bad")
        with gr.Accordion(
            say("Presets of your own", "自定义预设"), open=False, elem_id="lora_loop_own"
        ):
            with gr.Row():
                self._own = gr.Dropdown(
                    choices=list(own),
                    label=say("Saved", "已保存"),
                    elem_id="lora_loop_own_preset",
                    interactive=True,
                )
                self._name = gr.Textbox(
                    label=say("Name", "名称"), elem_id="lora_loop_own_name", interactive=True
                )
            with gr.Row():
                self._save = gr.Button(
                    say("Save these weights", "保存当前权重"), elem_id="lora_loop_own_save"
                )
                self._rename = gr.Button(say("Rename", "重命名"), elem_id="lora_loop_own_rename")
                self._delete = gr.Button(say("Delete", "删除"), elem_id="lora_loop_own_delete")
            self._told = gr.HTML(wrong, elem_id="lora_loop_own_told")
            self._text = make(
                gr.Textbox,
                label=say(
                    "As a file of lora-block-weight: copy it, or paste lines of NAME:1,0,...,1",
                    "lora-block-weight 预设文件：可复制，或粘贴 名称:1,0,...,1 各行",
                ),
                value=text,
                lines=3,
                max_lines=12,
                elem_id="lora_loop_own_text",
                interactive=True,
                show_copy_button=True,
                buttons=["copy"],
            )
            self._take = gr.Button(
                say("Take over what is pasted", "导入粘贴的内容"), elem_id="lora_loop_own_take"
            )

    def connect(self, vector: Any, presets: Any) -> None:
        """Bind the handlers. vector: the weights. presets: the list that users choose from."""
        outputs = [self._told, self._own, self._text, presets]
        for button, work, inputs in (
            (self._save, self._saved, [self._name, vector]),
            (self._rename, self._renamed, [self._own, self._name]),
            (self._delete, self._deleted, [self._own]),
            (self._take, self._taken, [self._text]),
        ):
            listen(button.click, answering(work, len(outputs)), inputs, outputs)

    def _saved(self, name: str, text: str) -> tuple[Any, ...]:
        weights = self._easel.parsed(text)  # before it is kept, so that nothing wrong is
        name = name.strip()
        body = weights.text() if text in self._easel.preset_names() else text
        self._easel.desk.presets.save(name, body)
        return self._listed(self._say(f"{name} is saved.", f"已保存 {name}。"), name)

    def _renamed(self, name: str | None, new: str) -> tuple[Any, ...]:
        new = new.strip()
        self._easel.desk.presets.rename(name or "", new)
        return self._listed(
            self._say(f"{name} is called {new} now.", f"{name} 已改名为 {new}。"), new
        )

    def _deleted(self, name: str | None) -> tuple[Any, ...]:
        self._easel.desk.presets.delete(name or "")
        return self._listed(self._say(f"{name} is deleted.", f"已删除 {name}。"), None)

    def _taken(self, text: str) -> tuple[Any, ...]:
        book = self._easel.desk.presets
        before = book.presets()
        skipped = book.add_text(text, overwrite=True)
        now = book.presets()
        changed = ", ".join(name for name in before if now[name] != before[name])
        left = "; ".join(map(str, skipped))
        told = self._say("The presets are taken over.", "预设已导入。")
        if changed:
            told += self._say(f" Replaced: {changed}.", f" 已替换：{changed}。")
        if left:
            told += self._say(f" Left out: {left}", f" 未导入：{left}")
        return self._listed(told, None)

    def _listed(self, told: str, chosen: str | None) -> tuple[Any, ...]:
        book = self._easel.desk.presets
        return (
            notice(told),
            update(choices=list(book.presets()), value=chosen),
            book.text(),
            update(choices=self._easel.preset_names()),
        )
