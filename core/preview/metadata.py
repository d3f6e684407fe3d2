"""What a picture's PNG says about itself: the WebUI's `parameters`, and JSON to repeat it."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

from PIL import Image, PngImagePlugin

from ..models.base_model import BaseModel
from ..models.text import takes_clip_skip
from .sampling import DrawSettings, Prompt


def parameters_text(prompt: Prompt, settings: DrawSettings, base: BaseModel, seed: int) -> str:
    """Describe a picture in the WebUI's words, so that its "PNG info" can read them back."""
    sampler, schedule = settings.sampler_titles
    width, height = settings.size(base)
    skip = settings.text.clip_skip if takes_clip_skip(base.family.key) else 1
    facts = {
        "Steps": settings.steps,
        "Sampler": sampler,
        "Schedule type": schedule,
        "CFG scale": settings.guidance,
        "Seed": seed,
        "Size": f"{width}x{height}",
        "Model hash": (base.sha256 or "")[:10],
        "Model": base.name,
        "Clip skip": skip if skip != 1 else "",
        "RNG": base.seeding.title if base.seeding.title != "GPU" else "",  # the WebUI's default
        "ENSD": base.seeding.later or "",
    }
    lines = [prompt.text.strip()]
    if prompt.negative.strip():
        lines.append(f"Negative prompt: {prompt.negative.strip()}")
    lines.append(", ".join(f"{key}: {_quoted(value)}" for key, value in facts.items() if value))
    return "\n".join(lines)


def encode_png(image: Image.Image, texts: Mapping[str, str]) -> bytes:
    """Encode a picture as PNG with text chunks; other scripts than Latin go into iTXt chunks."""
    chunks = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        # A NUL ends a chunk's text, and lone surrogates have no UTF-8
        chunks.add_text(key, text.replace("\0", " ").encode("utf-8", "replace").decode("utf-8"))
    stream = io.BytesIO()
    image.save(stream, "PNG", pnginfo=chunks)
    return stream.getvalue()


def _quoted(value: object) -> str:
    """Quote as the WebUI does where a value holds what separates values."""
    text = str(value)
    return json.dumps(text, ensure_ascii=False) if any(c in text for c in ",\n:") else text
