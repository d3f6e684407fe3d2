"""The one logger of the package; a fixed name, because ComfyUI imports us under a path."""

import logging

logger = logging.getLogger("lora_loop")
