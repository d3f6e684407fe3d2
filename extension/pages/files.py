"""The Files page: what was trained, what its file says, and what can be done with it."""

import html
import json
from pathlib import Path
from typing import Any

import gradio as gr

from ...core.errors import ConfigError
from ...core.session import workbench
from ..gradio_versions import listen, make, update
from ..live import notice
from ..places import network_file
from ..words import Words, readable_bytes
from .blocks import BlocksPage
from .common import Context, answering, result_of, saved, unseen_button
from .drawing import seed_of
from .making import MakingPanel
from .train import TrainPage

_MOST_FILES = 2000
_SHOWN = {
    "ss_output_name": ("name", "名称"),
    "ss_base_model_version": ("family", "模型系列"),
    "ss_sd_model_name": ("base model", "底模"),
    "ss_network_dim": ("rank", "秩"),
    "ss_network_alpha": ("alpha", "alpha"),
    "ss_steps": ("steps", "步数"),
    "ss_num_train_images": ("pictures in an epoch, repeats included", "每轮图片数（含重复）"),
    "ss_unet_lr": ("U-Net learning rate", "U-Net 学习率"),
    "ss_text_encoder_lr": ("text encoder learning rate", "文本编码器学习率"),
    "ss_resolution": ("resolution", "分辨率"),
    "ss_clip_skip": ("clip skip", "跳过 CLIP 层"),
    "modelspec.trigger_phrase": ("trigger", "触发词"),
    "lora_loop.baked_block_weights": ("baked block weights", "已固化的分层权重"),
    "ss_training_comment": ("comment", "备注"),
}


class FilesPage:
    """Builds the page."""

    def __init__(self, context: Context) -> None:
        self._desk, self._form, self._say = context.desk, context.form, context.say
        say = self._say
        names = self._names()
        with gr.Row():
            self._file = gr.Dropdown(
                choices=names,
                value=names[0] if names else None,
                label=say("Network file", "网络文件"),
                elem_id="lora_loop_file",
                interactive=True,
                scale=3,
            )
            self._other = gr.Dropdown(
                choices=names,
                value=None,
                label=say("Compare with", "对比"),
                elem_id="lora_loop_other_file",
                interactive=True,
                scale=2,
            )
            self._refresh = gr.Button(say("Refresh", "刷新"), elem_id="lora_loop_refresh", scale=0)
        with gr.Row():
            self._open = gr.Button(
                say("Open on the Blocks page", "在“分层”页打开"), elem_id="lora_loop_open"
            )
            self._again = gr.Button(
                say("Train again from this file", "用此文件的设置再训练"), elem_id="lora_loop_again"
            )
        self._told = gr.HTML("", elem_id="lora_loop_files_told")
        self._facts = gr.HTML("", elem_id="lora_loop_facts")
        with (
            gr.Accordion(say("Save with block weights", "按分层权重另存"), open=False),
            gr.Row(),
        ):
            self._weights = gr.Textbox(
                label=say("Weights: preset, vector or ranges", "权重：预设名、向量或范围"),
                value="NOFACE",
                elem_id="lora_loop_file_weights",
                interactive=True,
            )
            self._name = gr.Textbox(
                label=say("Name of the new file", "新文件名"),
                elem_id="lora_loop_file_name",
                interactive=True,
            )
            self._bake = make(
                gr.Button, value=say("Save", "保存"), elem_id="lora_loop_file_bake", scale=0
            )

        self._making = MakingPanel(context)

    def connect(self, train: TrainPage, blocks: BlocksPage) -> None:
        """Bind the handlers, once every page has made its widgets."""
        widgets = self._form.widgets
        chosen = [self._file, self._other]
        show = answering(self._shown, 1)
        listed = listen(self._refresh.click, self._listed, [], chosen)
        listen(listed.then, show, chosen, [self._facts])
        for source in chosen:
            listen(source.input, show, chosen, [self._facts])
        first = unseen_button("lora_loop_list")
        listed = listen(first.click, self._listed, [], chosen, quick=True)
        listen(listed.then, show, chosen, [self._facts])
        opened = listen(
            self._open.click, answering(self._opened, 1), [self._file, *widgets], [self._told]
        )
        listen(opened.then, blocks.look, blocks.look_asks, blocks.looked)
        again = listen(
            self._again.click,
            answering(self._trained_again, 1 + len(widgets)),
            [self._file, *widgets],
            [self._told, *widgets],
        )
        listen(again.then, train.plan_again, [train.seen, *widgets], [train.plan_html, train.seen])
        baked = listen(
            self._bake.click,
            answering(self._baked, 1),
            [self._file, self._weights, self._name, blocks.seed],
            [self._told],
        )
        for event in (baked, *self._making.connect(self._file)):
            listed = listen(event.then, self._listed, [], chosen)
            listen(listed.then, show, chosen, [self._facts])

    def _names(self) -> list[str]:
        """Files below the networks' folder, the newest first."""
        root = self._desk.host.folders().networks
        if not root.is_dir():
            return []
        found = [path for path in root.rglob("*.safetensors") if path.is_file()]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        return [path.relative_to(root).as_posix() for path in found[:_MOST_FILES]]

    def _listed(self) -> tuple[Any, Any]:
        names = self._names()
        return update(choices=names, value=names[0] if names else None), update(choices=names)

    def _path(self, name: str | None) -> Path:
        if not name:
            raise ConfigError(
                self._say("no file is chosen: choose one above", "未选择文件：请先在上方选择")
            )
        return network_file(self._desk.host.folders(), name)

    def _shown(self, name: str | None, other: str | None) -> str:
        if not name:
            return ""
        tables = [_facts(self._path(one), self._say) for one in (name, other) if one]
        return f'<div class="lora-loop-tables">{"".join(tables)}</div>'

    def _opened(self, name: str, *shown: Any) -> str:
        path = self._path(name)
        recipe = self._form.read(shown, self._desk.fixed())
        result_of(self._desk.open_file(path, recipe.base, recipe.memory), self._say)
        return notice(self._say(f"{name} is on the Blocks page.", f"{name} 已在“分层”页打开。"))

    def _trained_again(self, name: str, *shown: Any) -> tuple[Any, ...]:
        path = self._path(name)
        recipe = self._desk.recipe_of(path, self._form.read(shown, {}))
        told = self._say(
            "The Train page shows the settings of this file.", "“训练”页已填入此文件的设置。"
        )
        return (notice(told), *self._form.changes(recipe, shown))

    def _baked(self, name: str, weights: str, new_name: str, seed: str) -> str:
        baked = self._desk.bake(self._path(name), weights, new_name, seed_of(seed))
        return saved(baked, self._say)


def _facts(path: Path, say: Words) -> str:
    """A file's facts as a table; everything in it is text."""
    facts = workbench.describe_network(path)
    rows = [
        (say("file", "文件"), path.name),
        (say("size", "大小"), readable_bytes(facts.bytes)),
        (say("layers", "模块数"), str(facts.modules)),
    ]
    for key, words in _SHOWN.items():
        value = facts.metadata.get(key, "None")
        if value not in ("None", ""):
            rows.append((say(*words), value))
    tags = _tags(facts.metadata.get("ss_tag_frequency", ""))
    if tags:
        rows.append((say("most frequent tags", "最常见标签"), tags))
    body = "".join(
        f"<tr><th>{html.escape(label)}</th><td>{html.escape(value)}</td></tr>"
        for label, value in rows
    )
    return f'<table class="lora-loop-facts">{body}</table>'


def _tags(text: str) -> str:
    try:
        folders = json.loads(text) if text else {}
        counts: dict[str, int] = {}
        for tags in folders.values():
            for tag, count in tags.items():
                counts[tag.strip()] = counts.get(tag.strip(), 0) + int(count)
    except (ValueError, TypeError, AttributeError):  # another program's file may hold anything
        return ""
    most = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:20]
    return ", ".join(f"{tag} ({count})" for tag, count in most)
