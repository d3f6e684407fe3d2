"""Train the embedded base model from scratch, one stage after another; see its model card."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..models.tokenizer import ClipTokenizer
from .base_check import check_scenes, decode, prompts, sample_latents, score, sheet
from .base_parts import (
    Average,
    make_optimizers,
    make_text_encoder,
    make_unet,
    make_vae,
    swap_full_resolution,
    tune_allocator,
)
from .draw import draw, sample_scene
from .export_base import export
from .train_text import TextTeacher, padded, start_text_encoder, text_batch
from .train_unet import Replicas, make_world, unet_batch
from .train_vae import decoder_loss, to_tensor, vae_batch, vae_loss, whiten

log = logging.getLogger("lora_loop")


def set_lr(
    optimizers: list[torch.optim.Optimizer], peak: float, share: float, warm: float
) -> float:
    """Set the learning rate: linear warm-up over `warm`, level, from 0.4 on down to zero.

    share: of the run, in [0, 1].
    """
    value = peak * min(1.0, (share + 1e-4) / warm, (1 - share) / 0.6 + 1e-3)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = value
    return value


def train_vae(args: argparse.Namespace) -> None:
    """Train the VAE for a number of minutes and save its averaged weights."""
    torch.manual_seed(args.seed)
    vae = make_vae()
    swap_full_resolution(vae, lean=True)
    vae = vae.to(memory_format=torch.channels_last)
    if args.resume:
        vae.load_state_dict(torch.load(args.folder / "vae.pt"))
    optimizers = make_optimizers(vae, args.lr, args.muon)
    average = Average(vae, 0.99)
    noise = torch.Generator().manual_seed(args.seed)
    start, step, smooth = time.time(), 0, 0.0
    while step < args.steps:
        lr = set_lr(optimizers, args.lr, step / args.steps, 0.03)
        pixels = vae_batch(args.seed, step, args.batch)
        loss = vae_loss(vae, pixels.to(memory_format=torch.channels_last), noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update(vae)
        smooth = loss.item() if step == 0 else 0.9 * smooth + 0.1 * loss.item()
        step += 1
        if step % 25 == 0:
            log.info("vae step %d %.0fs lr %.2e loss %.4f", step, time.time() - start, lr, smooth)
        if step % 100 == 0:
            save(args.folder / "vae.pt", average.values)
    save(args.folder / "vae.pt", average.values)


def train_decoder(args: argparse.Namespace) -> None:
    """Train the whitened VAE's decoder further; its latents, and so the U-Net, stay as they are."""
    vae = load_vae(args.folder)
    vae.encoder.requires_grad_(False)
    vae.quant_conv.requires_grad_(False)
    optimizers = make_optimizers(vae, args.lr, muon=True)
    average, start = Average(vae, 0.99), time.time()
    generator = torch.Generator().manual_seed(args.seed)
    for step in range(args.steps):
        lr = set_lr(optimizers, args.lr, step / args.steps, 0.03)
        pixels = vae_batch(args.seed + 50, step, args.batch)
        pixels = pixels.to(memory_format=torch.channels_last)
        with torch.no_grad():
            latents = vae.encode(pixels).latent_dist.sample(generator)
        loss = decoder_loss(vae, latents, pixels)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update(vae)
        if step % 25 == 24:
            passed = time.time() - start
            log.info("decoder step %d %.0fs lr %.2e loss %.4f", step, passed, lr, loss)
        if step % 100 == 99 or step == args.steps - 1:
            names = {name.replace(".block.", "."): name for name in average.values}
            kept = {name: average.values[names[name]] for name in names}
            save(args.folder / "vae_white.pt", kept)
            save(args.folder / "vae.pt", average.values)


def train_text(args: argparse.Namespace) -> None:
    """Train the text encoder and save it; its final norm keeps its unit scale."""
    generator = torch.Generator().manual_seed(args.seed)
    torch.manual_seed(args.seed)
    encoder, teacher = make_text_encoder(), TextTeacher()
    start_text_encoder(encoder, generator)
    params = [p for m in (encoder, teacher) for p in m.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, args.lr, betas=(0.9, 0.98), weight_decay=0.0)
    start = time.time()
    for step in range(args.steps):
        lr = set_lr([optimizer], args.lr, step / args.steps, 0.05)
        ids, said = text_batch(word_ids, args.seed, step, args.batch)
        loss, right = teacher(encoder, ids, said)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 25 == 0:
            message = "text step %d %.0fs lr %.2e loss %.4f right %.3f"
            log.info(message, step, time.time() - start, lr, loss.item(), right.item())
        if step % 200 == 199:
            save(args.folder / "text.pt", encoder.state_dict())
    save(args.folder / "text.pt", encoder.state_dict())


def load_vae(folder: Path) -> Any:
    """Load the trained VAE, whitened if that was done."""
    vae = make_vae()
    path = folder / "vae_white.pt"
    if path.exists():
        vae.load_state_dict(torch.load(path))
    swap_full_resolution(vae, lean=True)
    return vae.eval().to(memory_format=torch.channels_last)


def make_latents(args: argparse.Namespace) -> None:
    """Whiten the VAE's latents, then encode the world with it."""
    vae = make_vae()
    swap_full_resolution(vae, lean=True)
    vae.load_state_dict(torch.load(args.folder / "vae.pt"))
    rng = np.random.default_rng((args.seed, 5))
    pixels = to_tensor([draw(sample_scene(rng), 64, 64) for _ in range(384)])
    whiten(vae.eval(), pixels)
    swap_full_resolution(vae, lean=False)
    save(args.folder / "vae_white.pt", vae.state_dict())
    start = time.time()
    world = make_world(load_vae(args.folder), args.seed, args.count)
    save(args.folder / "world.pt", dict(world))  # pyright: ignore[reportArgumentType]
    first = world[64, 64][0]
    mean, std = first.mean((0, 2, 3)), first.std((0, 2, 3))
    log.info("%.0fs mean %s std %s", time.time() - start, mean, std)


class Texts:
    """Hidden states of captions, from the frozen text encoder."""

    def __init__(self, folder: Path) -> None:
        self.encoder = make_text_encoder()
        self.encoder.load_state_dict(torch.load(folder / "text.pt"))
        self.encoder.eval().requires_grad_(False)
        self.known: dict[str, list[int]] = {}

    @torch.no_grad()
    def __call__(self, texts: list[str], length: int) -> Tensor:
        """Hidden states (B, length, 96) after the final norm."""
        for text in texts:
            if text not in self.known:
                self.known[text] = word_ids(text)
        ids = torch.tensor([padded(self.known[text], length) for text in texts])
        return self.encoder(input_ids=ids).last_hidden_state


def train_unet(args: argparse.Namespace) -> None:
    """Train the U-Net; goes on from the last checkpoint if there is one."""
    torch.manual_seed(args.seed)
    unet = make_unet().to(memory_format=torch.channels_last)
    optimizers = make_optimizers(unet, args.lr, args.muon)
    average, texts, step = Average(unet, 0.998), Texts(args.folder), 0
    world, path = torch.load(args.folder / "world.pt"), args.folder / "unet.pt"
    if path.exists():
        state = torch.load(path)
        unet.load_state_dict(state["unet"])
        average.load_state_dict(state["average"])
        for optimizer, old in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(old)
        step = state["step"]
    torch.set_num_threads(1)
    replicas = Replicas(unet)
    start, smooth, first = time.time(), 0.0, step
    while step < args.steps:
        share = step / args.steps
        lr = set_lr(optimizers, args.lr, share, 0.02)
        latents, said = unet_batch(world, args.seed, step, args.batch, share)
        context = texts(said, 24 if share < 0.8 else 77)
        loss = replicas.backward(latents, context, args.seed * 1_000_000 + step)
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        average.update(unet)
        smooth = loss if step == first else 0.95 * smooth + 0.05 * loss
        step += 1
        if step % 25 == 0:
            log.info("unet step %d %.0fs lr %.2e loss %.4f", step, time.time() - start, lr, smooth)
        if step % 150 == 0 or step == args.steps:
            states = [optimizer.state_dict() for optimizer in optimizers]
            kept = {"unet": unet.state_dict(), "average": average.state_dict()}
            save(path, {**kept, "optimizers": states, "step": step})
        if step % args.check == 0 or step == args.steps:
            check(args.folder, average.values, texts, step)


def write_file(args: argparse.Namespace) -> None:
    """Write the safetensors file of the averaged U-Net, the whitened VAE and the text encoder."""
    export(args.folder, args.out, args.name)


def check(folder: Path, values: dict[str, Tensor], texts: Texts, step: int) -> None:
    """Judge fifty pictures of the averaged U-Net, and keep a sheet of them."""
    unet = make_unet()
    unet.load_state_dict(values)
    unet.eval().to(memory_format=torch.channels_last)
    scenes = check_scenes(50)
    context, empty = texts(prompts(scenes), 24), texts([""], 24)
    images = decode(load_vae(folder), sample_latents(unet, context, empty, (8, 8)))
    sheet(images).save(folder / f"check_{step}.png")
    log.info("check at %d: %s", step, score(images, scenes))


def word_ids(text: str) -> list[int]:
    """CLIP's ids of a text, without begin, end and padding."""
    tokenizer = ClipTokenizer()
    return tokenizer.encode([text])[0, 1 : 1 + tokenizer.count(text)].tolist()


def save(path: Path, values: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    torch.save(values, path.with_suffix(".part"))
    path.with_suffix(".part").replace(path)


def main() -> None:
    """Read the command line and run one stage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--stage", required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out", type=Path, default=Path("base.safetensors"))
    parser.add_argument(
        "--name", default="final", help="what the file's metadata says of its stage"
    )
    parser.add_argument("--count", type=int, default=12000)
    parser.add_argument("--check", type=int, default=250)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--muon", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tune_allocator()
    torch.set_num_threads(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    STAGES[args.stage](args)


STAGES = {
    "vae": train_vae,
    "decoder": train_decoder,
    "text": train_text,
    "latents": make_latents,
    "unet": train_unet,
    "export": write_file,
}

if __name__ == "__main__":
    main()
