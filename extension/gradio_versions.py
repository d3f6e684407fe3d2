"""The one place that knows how gradio 3.41, 4.40 and the current version differ."""

import inspect
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import gradio as gr
from PIL import Image, ImageChops

UNCHANGED = {"__type__": "update"}  # what gr.update() is in every version


def update(**changes: Any) -> dict[str, Any]:
    """New properties of a component; without any, it stays as it is."""
    return gr.update(**changes)


def known(make: Callable[..., Any], **options: Any) -> dict[str, Any]:
    """Those of the options that this version's `make` takes."""
    # Forge puts gradio 4's events, and what follows on them, into functions of its own; an event of
    # a component whose parent has it too is wrapped twice
    while (wrapped := getattr(make, "replaced_event", None)) is not None:
        make = wrapped
    takes = inspect.signature(make).parameters.values()
    names = {one.name for one in takes if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)}
    if names == {"_js"}:
        names = {"js", "queue", "api_name", "show_progress"}
    return {name: value for name, value in options.items() if name in names}


def make(kind: Callable[..., Any], **options: Any) -> Any:
    """A component with those of the options that this version knows."""
    return kind(**known(kind, **options))


def painter(**options: Any) -> Any:
    """A picture to paint a mask on; `painted` reads it."""
    if hasattr(gr, "ImageMask"):
        return make(gr.ImageMask, type="pil", **options)
    return make(gr.Image, type="pil", source="upload", tool="sketch", **options)


def painted(value: Any) -> Image.Image | None:
    """What was painted on a `painter`, as a mask with white there; None where nothing was."""
    if not isinstance(value, dict):
        return None
    if value.get("mask") is not None:
        layers = [value["mask"].convert("L")]
    else:
        layers = [layer.convert("RGBA").getchannel("A") for layer in value.get("layers") or []]
    if not layers:
        return None
    mask = reduce(ImageChops.lighter, layers).point([0] * 128 + [255] * 128)
    return mask if mask.getbbox() else None


def listen(
    event: Callable[..., Any],
    work: Callable[..., Any] | None,
    inputs: Sequence[Any] = (),
    outputs: Sequence[Any] = (),
    *,
    script: str | None = None,
    name: str | None = None,
    quick: bool = False,
) -> Any:
    """Bind `event` (button.click, ...) to `work`; the answer can be followed by `.then`.

    script: JavaScript that runs first. name: makes it callable as /api/NAME. quick: answered beside
    the queue, without a spinner.
    """
    options: dict[str, Any] = {"js": script, "_js": script, "queue": not quick}
    options["api_name"] = name if name else False
    options["api_visibility"] = "public" if name else "private"
    # a hidden spinner counts the time too, in every frame and for every output: have none
    options |= {"show_progress": "hidden", "show_progress_on": []}
    chosen = known(event, **options)
    if "api_visibility" in chosen and not name:
        chosen.pop("api_name", None)
    return event(fn=work, inputs=list(inputs), outputs=list(outputs), **chosen)


def open_blocks(title: str, css: str, head: str) -> gr.Blocks:
    """A page of its own; newer versions want style and head of `mount`, which gets them too."""
    options = known(gr.Blocks, title=title, css=css, head=head, analytics_enabled=False)
    return gr.Blocks(**options)


def mount(app: Any, page: gr.Blocks, css: str, head: str, login: tuple[str, str] | None) -> Any:
    """Put the page at the root of a FastAPI application; `login` is asked for in every version."""
    options = known(gr.mount_gradio_app, css=css, head=head, auth=login)
    if login is not None and "auth" not in options:
        page.auth, page.auth_message = [login], None
    page.queue()  # newer versions have one in any case
    return gr.mount_gradio_app(app, page, path="/", **options)
