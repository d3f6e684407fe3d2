"""Where the WebUI and Forge let extensions in: a tab, settings, routes."""

# pyright: reportMissingImports=false

from collections.abc import Callable
from typing import Any

import gradio as gr
from modules import script_callbacks, shared

from ..api import add_routes
from ..desk import Desk
from ..tab import Tab
from .protocol import Host

TITLE, ELEMENT = "LoRA Loop", "lora_loop_tab"


def open_door(host: Host, desk: Callable[[], Desk]) -> None:
    """Have the host call us; the script callbacks of an earlier load are gone by then."""

    def tabs() -> list[tuple[gr.Blocks, str, str]]:
        desk().rebind(host)
        with gr.Blocks(analytics_enabled=False) as page:
            Tab(desk())
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
