"""Where the WebUI and Forge let extensions in: a tab, settings, routes."""

# pyright: reportMissingImports=false

import html
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import gradio as gr
from modules import script_callbacks, shared

if TYPE_CHECKING:
    from ..desk import Desk
    from .protocol import Host

TITLE, ELEMENT = "LoRA Loop", "lora_loop_tab"


def open_door(host: "Host", desk: "Callable[[], Desk]") -> None:
    """Have the host call us; the script callbacks of an earlier load are gone by then."""
    from ..api import add_routes
    from ..tab import Tab

    def tabs() -> list[tuple[gr.Blocks, str, str]]:
        desk().rebind(host)
        with gr.Blocks(analytics_enabled=False) as page:
            Tab(desk())
        for block in page.blocks.values():  # the host would put the first start's values back
            vars(block)["do_not_save_to_config"] = True
        return [(page, TITLE, ELEMENT)]

    def routes(_page: Any, app: Any) -> None:
        if shared.cmd_opts.api or shared.cmd_opts.nowebui:
            add_routes(app, desk())

    def settings() -> None:
        section = ("lora_loop", TITLE)
        shared.opts.add_option(
            "lora_loop_folders",
            shared.OptionInfo(
                "",
                "Folders that other people's browsers may name, one a line (with --listen or "
                "--share) / 允许他人浏览器访问的文件夹，每行一个",
                gr.Textbox,
                {"lines": 3},
                section=section,
            ),
        )

    script_callbacks.on_ui_settings(settings)
    script_callbacks.on_ui_tabs(tabs)
    script_callbacks.on_app_started(routes)


def show_missing(package: str) -> None:
    """A tab that says what is not installed, so that nobody looks for it in the terminal."""
    text = (
        f"LoRA Loop needs the package <b>{html.escape(package)}</b>, which could not be installed "
        "beside the WebUI's own. Start the WebUI once with a network, or run "
        "<code>python install.py add</code> in this extension's folder with the WebUI's Python.<br>"
        f"LoRA Loop 缺少 <b>{html.escape(package)}</b>，未能在 WebUI 的环境中安装。"
        "请在联网状态下重启 WebUI，或用 WebUI 的 Python 在扩展目录运行 "
        "<code>python install.py add</code>。"
    )

    def tabs() -> list[tuple[gr.Blocks, str, str]]:
        with gr.Blocks(analytics_enabled=False) as page:
            gr.HTML(f'<div class="lora-loop-line lora-loop-bad">{text}</div>')
        return [(page, TITLE, ELEMENT)]

    script_callbacks.on_ui_tabs(tabs)
