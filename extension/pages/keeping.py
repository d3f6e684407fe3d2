"""What to do with block weights that were found: a tag for a prompt, a file, another training."""

from dataclasses import replace
from typing import Any

import gradio as gr

from ...core import session
from ...core.errors import ConfigError
from ...core.session import workbench
from ..gradio_versions import listen, make
from ..live import notice
from ..places import free_name
from ..redraw import Easel
from .common import Context, answering, saved
from .drawing import seed_of
from .train import TrainPage

_DIALECTS: dict[workbench.Dialect, tuple[str, str]] = {
    "lbw": ("lbw= (lora-block-weight)", "lbw=（lora-block-weight）"),
    "positional": ("old form without names", "无名称的旧格式"),
    "inspire": ("ComfyUI Inspire pack", "ComfyUI Inspire Pack"),
}
_USE = "(tag) => window.loraLoopUseInPrompt && window.loraLoopUseInPrompt(tag)"


class KeepingPanel:
    """Builds the panel; `shown` says what stands in it for some weights.

    seed: the widget of the pictures' seed, from which random weights are drawn here too: what is
    kept is what was drawn.
    """

    def __init__(self, context: Context, easel: Easel, seed: Any) -> None:
        self._desk, self._form, self._say = context.desk, context.form, context.say
        self._easel, self._seed = easel, seed
        say = self._say
        with gr.Row():
            self._tag = make(
                gr.Textbox,
                label=say("For a prompt elsewhere", "用于其他程序的提示词"),
                value="",
                interactive=False,
                elem_id="lora_loop_tag",
                show_copy_button=True,
                buttons=["copy"],
                scale=3,
            )
            choices = [say(*words) for words in _DIALECTS.values()]
            self._dialect = gr.Dropdown(
                choices=choices,
                value=choices[0],
                label=say("Written for", "格式"),
                elem_id="lora_loop_dialect",
                interactive=True,
                scale=1,
                min_width=160,
            )
        with gr.Row():
            self._name = gr.Textbox(
                label=say("Name of the new file", "新文件名"),
                elem_id="lora_loop_bake_name",
                interactive=True,
                scale=3,
            )
            self._save = gr.Button(say("Save as LoRA", "另存为 LoRA"), elem_id="lora_loop_bake")
        with gr.Row():
            self._use = gr.Button(
                say("Use in txt2img", "用于文生图"),
                elem_id="lora_loop_use",
                visible=not self._desk.host.checkpoints(),
            )
            self._again = gr.Button(
                say("Train again with these blocks", "只训练这些层"), elem_id="lora_loop_retrain"
            )
        self._told = gr.HTML("", elem_id="lora_loop_kept")
        self.texts = [self._tag, self._name]
        self.help = {
            "lora_loop_dialect": say(
                "lbw= is read by LoRA Loop in the WebUI and by lora-block-weight; the Inspire pack "
                "counts the blocks that the file has.",
                "lbw= 可由 WebUI 中的 LoRA Loop 和 lora-block-weight 读取；Inspire Pack 按文件所含"
                "的层计数。",
            )
        }

    def asks(self, vector: Any) -> tuple[list[Any], list[Any]]:
        """Inputs and outputs of `shown`."""
        return [vector, self._dialect, self._seed], self.texts

    def connect(self, vector: Any, train: TrainPage) -> None:
        """Bind the handlers; `vector` holds the weights."""
        listen(self._dialect.input, self.shown, *self.asks(vector))
        asks = [vector, self._name, self._seed]
        listen(self._save.click, answering(self._saved, 1), asks, [self._told])
        listen(self._use.click, None, [self._tag], [], script=_USE)
        widgets = self._form.widgets
        again = listen(
            self._again.click,
            answering(self._trained_again, 1 + len(widgets)),
            [vector, self._seed, *widgets],
            [self._told, *widgets],
        )
        listen(again.then, train.plan_again, [train.seen, *widgets], [train.plan_html, train.seen])

    def shown(self, text: str, dialect: str = "", seed: str = "") -> tuple[str, str]:
        """The tag for a prompt, and a name for the file, both of what is chosen."""
        live = self._desk.live
        if live is None:
            return "", ""
        try:
            weights = self._easel.weights(text, seed_of(seed))
            tag = workbench.tag_of(
                live.network, live.name, weights, live.family, self._chosen(dialect)
            )
        except ConfigError:
            return "", ""
        label = weights.label if weights.label in self._easel.preset_names() else ""
        short = "".join(letter for letter in label if letter.isalnum()) or "blocks"
        folder = self._desk.host.folders().networks
        return tag, free_name(folder, f"{live.name}-{short}")

    def _chosen(self, title: str) -> workbench.Dialect:
        for dialect, words in _DIALECTS.items():
            if self._say(*words) == title:
                return dialect
        return "lbw"

    def _saved(self, text: str, name: str, seed: str) -> str:
        live = self._easel.live()
        if live.path is None:
            raise ConfigError(f"{live.name} has no file yet: train at least one step")
        weights = self._easel.weights(text, seed_of(seed))
        return saved(self._desk.bake(live.path, weights, name), self._say)

    def _trained_again(self, text: str, seed: str, *shown: Any) -> tuple[Any, ...]:
        live = self._easel.live()
        weights = self._easel.weights(text, seed_of(seed))
        recipe = session.recipe_with_blocks(live.recipe, weights)
        name = self._desk.next_name(recipe)
        recipe = replace(recipe, output=replace(recipe.output, name=name))
        told = self._say(
            f"The Train page will train {recipe.network.blocks} alone, as {name}.",
            f"“训练”页将只训练 {recipe.network.blocks}，文件名 {name}。",
        )
        return (notice(told), *self._form.changes(recipe, shown))
