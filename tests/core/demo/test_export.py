"""Writing the embedded model is the reading of it turned round."""

import torch

from lora_loop.core.demo.export_base import ldm_tensors
from lora_loop.core.models.base_model import EMBEDDED, load_base_model
from lora_loop.core.models.checkpoint import open_checkpoint


def test_the_embedded_model_written_again_is_the_same_file() -> None:
    base = load_base_model("embedded")
    (text,) = base.text_encoders.values()
    written = ldm_tensors(base.unet.state_dict(), base.vae.state_dict(), text.state_dict())
    stored = open_checkpoint(EMBEDDED)
    assert set(written) == set(stored.shapes)
    for name, tensor in written.items():
        assert torch.equal(tensor, stored.tensor(name))
