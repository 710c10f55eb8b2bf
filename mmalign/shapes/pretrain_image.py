"""Pretrain the tiny Stable-Diffusion-type pipeline of the shapes world, from nothing, on one CPU core.

Stages, each of which resumes where it stopped: the autoencoder; the latents of all training pictures, encoded
once; the denoiser together with the text tower. Exports along the way are judged on validation prompts, so
that the base with the wished-for prompt-following can be picked by its step.
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import CLIPTextModel, CLIPTokenizer

from mmalign.shapes.image_card import ship
from mmalign.shapes.image_figures import SHIPPED, load, measure, sample
from mmalign.shapes.preferences import validation_prompts
from mmalign.shapes.pretrain_state import (
    Average,
    learning_rate,
    load_state,
    save_state,
    set_learning_rate,
    write_json,
)
from mmalign.shapes.pretrain_vae import (
    encode_pictures,
    fresh_renders,
    reconstruct,
    train_vae,
    training_pictures,
)
from mmalign.shapes.scenes import BASE
from mmalign.shapes.tiny_sd import (
    assemble,
    build_scheduler,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    build_vae,
    token_ids,
)

PEAK_RATE, WARMUP, BATCH, DECAY, CAPTION_DROPOUT = 1.2e-3, 200, 32, 0.999, 0.1
SAVE_EVERY, EXPORT_EVERY = 200, 400


class Denoiser(nn.Module):
    """The text tower and the U-Net, trained together."""

    def __init__(self, text_encoder: CLIPTextModel, unet: UNet2DConditionModel) -> None:
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """Predicted velocity [N, 4, 16, 16] for noisy latents, timesteps [N] and caption ids [N, 16]."""
        states = self.text_encoder(ids)[0]
        prediction: Tensor = self.unet(noisy, timesteps, encoder_hidden_states=states).sample
        return prediction


def timesteps(num: int, draw: torch.Generator, levels: int = 1000) -> Tensor:
    """Timesteps [num], evenly spread: half of them uniform, half gathered in the middle (a logit-normal).

    Shapes are settled at middle noise; one draw in each of equal slices makes gradients less noisy.
    """

    def slices(count: int) -> Tensor:
        return (torch.arange(count) + torch.rand(count, generator=draw)) / count

    middle = torch.sigmoid(0.3 + 1.1 * torch.special.ndtri(slices(num // 2).clamp(1e-4, 1 - 1e-4)))
    spread = torch.cat([slices(num - num // 2), middle])
    chosen = (spread * levels).long().clamp(0, levels - 1)
    return chosen[torch.randperm(num, generator=draw)]


def train_denoiser(
    model: Denoiser, average: Average, latents: dict[str, Tensor], steps: int, seed: int, folder: Path
) -> None:
    """Train in place up to step `steps`, resuming from `folder/denoiser`; draws depend on (seed, step) alone.

    `latents` holds scaled `mean` and `std` [M, 4, 16, 16], `ids` [M, 16] and the empty caption `blank` [16].
    Every EXPORT_EVERY steps a pipeline with the averaged weights is written and judged.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), fused=True)
    scheduler = DDPMScheduler.from_config(build_scheduler().config)
    start, began, losses = load_state(folder / "denoiser", model, average, optimizer), time.time(), []
    print(f"denoiser starts at step {start}/{steps}", flush=True)
    model.train()
    for step in range(start, steps):
        loss = _loss(model, latents, scheduler, torch.Generator().manual_seed(seed * 1_000_003 + step))
        set_learning_rate(optimizer, learning_rate(step, steps, PEAK_RATE, WARMUP))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model, step + 1)
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            pace = (time.time() - began) / (step + 1 - start)
            mean = sum(losses) / len(losses)
            print(f"denoiser step {step + 1}/{steps} loss {mean:.4f} {pace:.3f} s/step", flush=True)
            losses = []
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            save_state(folder / "denoiser", step + 1, model, average, optimizer)
        if (step + 1) % EXPORT_EVERY == 0 or step + 1 == steps:
            judge_step(folder, step + 1, average)


def _loss(
    model: Denoiser, latents: dict[str, Tensor], scheduler: DDPMScheduler, draw: torch.Generator
) -> Tensor:
    """Mean squared error of the velocity over one batch, in float32; the model runs in bfloat16."""
    chosen = torch.randint(0, len(latents["mean"]), (BATCH,), generator=draw)
    mean, std, ids = latents["mean"][chosen], latents["std"][chosen], latents["ids"][chosen]
    clean = mean + std * torch.randn(mean.shape, generator=draw)
    dropped = torch.rand(BATCH, generator=draw) < CAPTION_DROPOUT
    ids = torch.where(dropped[:, None], latents["blank"], ids)
    noise = torch.randn(mean.shape, generator=draw)
    levels = timesteps(BATCH, draw)
    noisy = scheduler.add_noise(clean, noise, levels).contiguous(memory_format=torch.channels_last)
    target = scheduler.get_velocity(clean, noise, levels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        prediction = model(noisy, levels, ids)
    return (prediction.float() - target).pow(2).mean()


def judge_step(folder: Path, step: int, average: Average) -> None:
    """Write `folder/exports/step-N` with the averaged weights and print its figures on validation prompts."""
    export(folder, average, folder / "exports" / f"step-{step:06d}")
    pipeline = load(folder / "exports" / f"step-{step:06d}")
    prompts = validation_prompts(100, seed=0)
    began = time.time()
    figures, _ = measure(sample(pipeline, prompts), prompts)
    took = time.time() - began
    print(f"export at step {step}: {json.dumps(figures.as_dict())} sampled in {took:.1f} s", flush=True)
    write_json(folder / "exports" / f"step-{step:06d}" / "figures.json", figures.as_dict())


def export(folder: Path, average: Average, target: Path) -> None:
    """Write a pipeline folder from the averaged denoiser and the finished autoencoder.

    Both are stored in half precision and load in float32 by default. The small text tower is stored in
    float32: the library would load it in the precision of its file, beside the others in float32.
    """
    tokenizer = build_tokenizer()
    model = Denoiser(build_text_encoder(tokenizer), build_unet())
    model.load_state_dict(average.weights)
    trained, vae = AutoencoderKL.from_pretrained(folder / "vae-final"), build_vae()
    vae.load_state_dict(trained.state_dict())
    vae.register_to_config(scaling_factor=trained.config.scaling_factor)
    pipeline = assemble(tokenizer, model.text_encoder, vae.half(), model.unet.half())
    pipeline.save_pretrained(target, safe_serialization=True)


def prepare_vae(folder: Path, pictures: Tensor, steps: int, seed: int) -> AutoencoderKL:
    """Train the autoencoder, or load the finished one; print what the judge says of its reconstructions."""
    final = folder / "vae-final"
    if final.exists():
        return AutoencoderKL.from_pretrained(final)
    torch.manual_seed(seed)
    vae = build_vae()
    train_vae(vae, pictures, steps, seed, folder / "vae")
    vae.eval()
    means, deviations = encode_pictures(vae, pictures[:4096])
    spread = float((means.var() + deviations.pow(2).mean()).sqrt())
    vae.register_to_config(scaling_factor=round(1 / spread, 6))
    renders = fresh_renders(500, BASE, seed=1)
    restored, psnr = reconstruct(vae, [image for image, _ in renders])
    figures, _ = measure(restored, [prompt for _, prompt in renders])
    print(f"vae: PSNR {psnr:.2f} dB, judge on reconstructions {json.dumps(figures.as_dict())}", flush=True)
    write_json(folder / "vae-figures.json", {"psnr": round(psnr, 2), **figures.as_dict()})
    vae.save_pretrained(final)
    return vae


def prepare_latents(
    folder: Path, vae: AutoencoderKL, pictures: Tensor, captions: list[str], tokenizer: CLIPTokenizer
) -> dict[str, Tensor]:
    """Scaled latents and caption ids of all training pictures; encoded once, then read from a file."""
    path = folder / "latents.safetensors"
    if not path.exists():
        mean, std = encode_pictures(vae, pictures)
        scale = float(vae.config.scaling_factor)
        ids = token_ids(tokenizer, captions)
        blank = token_ids(tokenizer, [""])[0]
        save_file({"mean": mean * scale, "std": std * scale, "ids": ids, "blank": blank}, path)
    return load_file(path)


def main(argv: Sequence[str]) -> None:
    """Run or resume the whole pretraining; the last export is the trained pipeline."""
    parser = argparse.ArgumentParser(prog="pretrain_shapes.py image", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("runs/pretrain_image"), help="states and exports")
    parser.add_argument("--pictures", type=int, default=24_000, help="training pictures")
    parser.add_argument("--vae-steps", type=int, default=2_800)
    parser.add_argument("--steps", type=int, default=2_600, help="denoiser steps of 32 pictures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--ship", type=int, metavar="STEP", help="only put the export at STEP into the package"
    )
    args = parser.parse_args(argv)
    if args.ship is not None:
        ship(args.work, args.ship, SHIPPED)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    pictures, captions = training_pictures(args.pictures, BASE, args.seed)
    vae = prepare_vae(args.work, pictures, args.vae_steps, args.seed)
    tokenizer = build_tokenizer()
    latents = prepare_latents(args.work, vae, pictures, captions, tokenizer)
    torch.manual_seed(args.seed)
    model = Denoiser(build_text_encoder(tokenizer), build_unet())
    model.unet.set_attn_processor(AttnProcessor())  # in bfloat16 on a CPU twice as fast as the fused kernel
    model.to(memory_format=torch.channels_last)
    train_denoiser(model, Average(model, DECAY), latents, args.steps, args.seed, args.work)
