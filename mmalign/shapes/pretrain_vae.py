"""Train the autoencoder of the shapes pipeline on rendered scenes."""

import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL
from PIL import Image
from torch import Tensor

from mmalign.shapes.pretrain_state import learning_rate, load_state, save_state, set_learning_rate
from mmalign.shapes.render import render
from mmalign.shapes.scenes import World, sample_caption, sample_scene, sample_training_caption

PEAK_RATE, WARMUP, BATCH, KL_WEIGHT = 2e-3, 50, 16, 1e-3


def training_pictures(num: int, world: World, seed: int) -> tuple[Tensor, list[str]]:
    """Render training scenes: pictures uint8 [num, 3, 32, 32] and their captions; no held-out combination."""
    rng = random.Random(f"training pictures {seed}")
    pictures, captions = [], []
    for _ in range(num):
        caption = sample_training_caption(world, rng)
        pictures.append(to_tensor(render(sample_scene(caption, world, rng))))
        captions.append(caption.text)
    return torch.stack(pictures), captions


def fresh_renders(num: int, world: World, seed: int) -> list[tuple[Image.Image, str]]:
    """Pictures with captions that were not trained on; held-out combinations occur as often as any other."""
    rng = random.Random(f"fresh renders {seed}")
    captions = [sample_caption(world, rng) for _ in range(num)]
    return [(render(sample_scene(caption, world, rng)), caption.text) for caption in captions]


def to_tensor(image: Image.Image) -> Tensor:
    """A picture as uint8 [3, H, W]."""
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def to_model(pictures: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] to float32 in -1..1, channels last."""
    return (pictures.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def to_images(values: Tensor) -> list[Image.Image]:
    """Float pictures [N, 3, H, W] in -1..1 to RGB images."""
    bytes_ = ((values.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(array) for array in bytes_.contiguous().numpy()]


def train_vae(vae: AutoencoderKL, pictures: Tensor, steps: int, seed: int, state: Path) -> None:
    """Train with L1 + MSE + a light KL, resuming from `state`: draws depend on (seed, step) alone."""
    vae.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(vae.parameters(), lr=PEAK_RATE, fused=True)
    start, began = load_state(state, vae, None, optimizer), time.time()
    losses: list[float] = []
    for step in range(start, steps):
        draw = torch.Generator().manual_seed(seed * 1_000_003 + step)
        chosen = torch.randint(0, len(pictures), (BATCH,), generator=draw)
        target = to_model(pictures[chosen])
        posterior = vae.encode(target).latent_dist
        restored = vae.decode(posterior.sample(generator=draw)).sample
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        loss = F.l1_loss(restored, target) + F.mse_loss(restored, target) + KL_WEIGHT * kl
        set_learning_rate(optimizer, learning_rate(step, steps, PEAK_RATE, WARMUP))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            pace = (time.time() - began) / (step + 1 - start)
            mean = sum(losses) / len(losses)
            print(f"vae step {step + 1}/{steps} loss {mean:.4f} {pace:.3f} s/step", flush=True)
            losses = []
        if (step + 1) % 500 == 0 or step + 1 == steps:
            save_state(state, step + 1, vae, None, optimizer)


@torch.no_grad()
def encode_pictures(vae: AutoencoderKL, pictures: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations of the latents, each float32 [N, 4, 16, 16], not yet scaled."""
    means, deviations = [], []
    for part in pictures.split(256):
        posterior = vae.encode(to_model(part)).latent_dist
        means.append(posterior.mean.contiguous())
        deviations.append(posterior.std.contiguous())
    return torch.cat(means), torch.cat(deviations)


@torch.no_grad()
def reconstruct(vae: AutoencoderKL, images: list[Image.Image]) -> tuple[list[Image.Image], float]:
    """Pictures after encoding (the mean) and decoding, and the mean PSNR in decibels."""
    target = to_model(torch.stack([to_tensor(image) for image in images]))
    restored = vae.decode(vae.encode(target).latent_dist.mode()).sample.clamp(-1, 1)
    errors = ((restored - target) / 2).pow(2).flatten(1).mean(1)
    return to_images(restored), float((-10 * errors.log10()).mean())
