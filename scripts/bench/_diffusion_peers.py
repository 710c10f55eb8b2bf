"""The peers of the diffusion benchmark: training steps in the manner of the published scripts.

Every step they run the autoencoder on both pictures and the text encoder on the caption, and they read
several scalars back for their log. Batches are decoded and tokenised beforehand. The optimizer is AdamW in
its fused form on every side: the unfused one, the default on a CPU, would only make these slower.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from _diffusion_inputs import (
    BETA,
    CLIP,
    INVERSION_BETA,
    INVERSION_GUIDANCE,
    INVERSION_STEPS,
    LR,
    MAPO_BETA,
    MAPO_K,
    RANK,
    TARGETS,
    TRAIN_TIMESTEPS,
    Draws,
    perturb,
    read_pairs,
    touch,
)
from accelerate import Accelerator
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, UNet2DConditionModel
from peft import LoraConfig
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer


class Script:
    """What the scripts share: the parts of a pipeline, frozen but for UNet or LoRA, and the step's end."""

    def __init__(self, folder: Path, lora: bool, checkpointing: bool) -> None:
        source = folder / "model"
        self.accelerator = Accelerator()
        self.vae = AutoencoderKL.from_pretrained(source, subfolder="vae").requires_grad_(False)
        text = CLIPTextModel.from_pretrained(source, subfolder="text_encoder")
        self.text: CLIPTextModel = text.requires_grad_(False)
        self.tokenizer = CLIPTokenizer.from_pretrained(source, subfolder="tokenizer")
        unet = UNet2DConditionModel.from_pretrained(source, subfolder="unet")
        self.reference: UNet2DConditionModel | None = None
        if lora:
            unet.requires_grad_(False)
            settings = LoraConfig(
                r=RANK, lora_alpha=RANK, init_lora_weights="gaussian", target_modules=list(TARGETS)
            )
            unet.add_adapter(settings)
        else:
            self.reference = UNet2DConditionModel.from_pretrained(source, subfolder="unet")
            self.reference.requires_grad_(False)
            touch(self.reference)
        if checkpointing:
            unet.enable_gradient_checkpointing()
        unet.train()
        perturb(unet)
        self.trainable = [p for p in unet.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(self.trainable, lr=LR, weight_decay=0.0, fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
        self.model, self.optimizer, self.schedule = self.accelerator.prepare(unet, optimizer, schedule)
        self.noise_scheduler = DDPMScheduler.from_pretrained(source, subfolder="scheduler")
        self.batches = [(caption, self.ids(caption), pixels) for caption, pixels in read_pairs(folder)]
        self.given: Draws | None = None
        self.logs: dict[str, Tensor] = {}
        self.logged: dict[str, float] = {}
        touch(self.vae, self.text, self.model)

    def ids(self, caption: str) -> Tensor:
        """Token ids [1, 77]."""
        padded = self.tokenizer(
            caption, max_length=77, padding="max_length", truncation=True, return_tensors="pt"
        )
        ids: Tensor = padded.input_ids
        return ids

    def latents(self, pixels: Tensor) -> Tensor:
        """Both pictures through the autoencoder, [2, C, h, w]; scaled."""
        posterior = self.vae.encode(pixels).latent_dist
        if self.given is None:
            drawn = posterior.sample()
        else:
            drawn = posterior.mean + posterior.std * self.given.latent_noise.repeat(2, 1, 1, 1)
        scaled: Tensor = drawn * self.vae.config.scaling_factor
        return scaled

    def noised(self, pair: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noised latents, timesteps, text states and the noise, of both pictures; one draw for the pair."""
        _, ids, pixels = self.batches[pair]
        latents = self.latents(pixels)
        if self.given is None:
            noise = torch.randn_like(latents).chunk(2)[0].repeat(2, 1, 1, 1)
            timesteps = torch.randint(0, TRAIN_TIMESTEPS, (1,), device=latents.device).repeat(2)
        else:
            noise, timesteps = self.given.noise.repeat(2, 1, 1, 1), self.given.timestep.repeat(2)
        noisy = self.noise_scheduler.add_noise(latents, noise, timesteps)
        states = self.text(ids, return_dict=False)[0].repeat(2, 1, 1)
        return noisy, timesteps, states, noise

    def update(self) -> None:
        """See `Side`."""
        if self.accelerator.sync_gradients:
            self.accelerator.clip_grad_norm_(self.trainable, CLIP)
        self.optimizer.step()
        self.schedule.step()
        self.optimizer.zero_grad()
        self.logged = {name: value.detach().item() for name, value in self.logs.items()}
        self.logged["lr"] = self.schedule.get_last_lr()[0]


def _errors(prediction: Tensor, noise: Tensor) -> Tensor:
    return F.mse_loss(prediction.float(), noise.float(), reduction="none").mean(dim=[1, 2, 3])


class DiffusionDPO(Script):
    """Diffusion-DPO (arXiv 2311.12908). With LoRA the reference is the same UNet with its adapters disabled,
    without it a frozen copy. Half of our beta is the scripts' beta: they leave the half of the error out."""

    def backward(self, pair: int) -> float:
        """See `Side`."""
        with self.accelerator.accumulate(self.model):
            noisy, timesteps, states, noise = self.noised(pair)
            errors = _errors(self.model(noisy, timesteps, states).sample, noise)
            chosen, rejected = errors.chunk(2)
            unet: Any = self.accelerator.unwrap_model(self.model)
            if self.reference is None:
                unet.disable_adapters()
            with torch.no_grad():
                frozen = unet if self.reference is None else self.reference
                theirs = _errors(frozen(noisy, timesteps, states).sample.detach(), noise)
                chosen_before, rejected_before = theirs.chunk(2)
            if self.reference is None:
                unet.enable_adapters()
            logits = (chosen_before - rejected_before) - (chosen - rejected)
            loss = -1 * F.logsigmoid(0.5 * BETA * logits).mean()
            accuracy = (logits > 0).sum().float() / logits.size(0)
            accuracy += 0.5 * (logits == 0).sum().float() / logits.size(0)
            self.accelerator.backward(loss)
        self.logs = {
            "loss": loss,
            "raw_model_loss": 0.5 * (chosen.mean() + rejected.mean()),
            "ref_loss": theirs.mean(),
            "implicit_acc": accuracy,
        }
        return float(loss.detach())


class MaPO(Script):
    """MaPO (arXiv 2406.06424): no reference; the autoencoder always in float32."""

    def backward(self, pair: int) -> float:
        """See `Side`."""
        with self.accelerator.accumulate(self.model):
            noisy, timesteps, states, noise = self.noised(pair)
            chosen, rejected = _errors(self.model(noisy, timesteps, states).sample, noise).chunk(2)
            win, lose = _bounded(chosen), _bounded(rejected)
            ratio = MAPO_BETA * F.logsigmoid((win - lose) * TRAIN_TIMESTEPS)
            loss = chosen.mean() - ratio.mean()
            self.accelerator.backward(loss)
        self.logs = {
            "total_loss": loss,
            "win_score": win.mean(),
            "lose_score": lose.mean(),
            "or_loss": -ratio.mean(),
            "model_losses_w": chosen.mean(),
            "model_losses_l": rejected.mean(),
        }
        return float(loss.detach())


def _bounded(error: Tensor) -> Tensor:
    return (MAPO_K * error) / (torch.exp(MAPO_K * error) - 1)


class InversionDPO(Script):
    """Inversion-DPO (arXiv 2507.11554), full fine-tuning: every step inverts each picture anew with the
    reference under guidance, then the policy predicts at all of those latents, and all graphs live until the
    one backward. The unconditional half is the encoded empty caption, as this family samples with; the
    release, for XL, encodes it as well and then takes zeros."""

    def __init__(self, folder: Path, checkpointing: bool) -> None:
        super().__init__(folder, lora=False, checkpointing=checkpointing)
        self.ddim = DDIMScheduler(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
        )

    def backward(self, pair: int) -> float:
        """See `Side`."""
        caption, _, pixels = self.batches[pair]
        with self.accelerator.accumulate(self.model):
            with torch.no_grad():
                chosen, rejected = self.latents(pixels).chunk(2)
            won, won_before = self._predictions(chosen, caption)
            lost, lost_before = self._predictions(rejected, caption)
            win = lose = torch.zeros(())
            for index in range(INVERSION_STEPS):
                alpha = self.ddim.alphas_cumprod[int(self.ddim.timesteps[index])]
                weight = (1 - alpha) / (2 * (1 - alpha) * alpha)
                won_gap = torch.mean((won[index] - won_before[index]) ** 2)
                lost_gap = torch.mean((lost[index] - lost_before[index]) ** 2)
                win, lose = win + weight * won_gap, lose + weight * lost_gap
            inside = 0.5 * INVERSION_BETA * (win - lose) / INVERSION_STEPS
            loss = -1 * F.logsigmoid(inside).mean()
            self.logs = {
                "train_loss": loss,
                "eps_diff_win": won_gap,
                "eps_diff_lose": lost_gap,
                "implicit_acc": (inside > 0).float(),
            }
            self.accelerator.backward(loss)
        return float(loss.detach())

    def _predictions(self, clean: Tensor, caption: str) -> tuple[list[Tensor], list[Tensor]]:
        """Guided predictions of policy and reference at every latent of one picture's inversion, from the
        noisiest on."""
        self.ddim.set_timesteps(INVERSION_STEPS)
        with torch.no_grad():
            states = torch.cat([self.text(self.ids(text), return_dict=False)[0] for text in ("", caption)])
        upwards = list(reversed(self.ddim.timesteps))
        latents, theirs = [clean], []
        assert self.reference is not None
        with torch.no_grad():
            for t in upwards:
                guided = _guided(self.reference, latents[-1], t, states)
                theirs.append(guided)
                latents.append(self._inverted(guided, int(t), latents[-1]))
        ours = [_guided(self.model, x, t, states) for x, t in zip(latents[:-1], upwards, strict=True)]
        return ours[::-1], theirs[::-1]

    def _inverted(self, noise: Tensor, timestep: int, latents: Tensor) -> Tensor:
        """The DDIM step upwards that ends at `timestep`."""
        before = timestep - TRAIN_TIMESTEPS // INVERSION_STEPS
        alpha = self.ddim.alphas_cumprod[before] if before >= 0 else self.ddim.final_alpha_cumprod
        after = self.ddim.alphas_cumprod[timestep]
        clean = (latents - (1 - alpha) ** 0.5 * noise) / alpha**0.5
        moved: Tensor = after**0.5 * clean + (1 - after) ** 0.5 * noise
        return moved


def _guided(model: Any, latents: Tensor, timestep: Tensor, states: Tensor) -> Tensor:
    both = model(torch.cat([latents] * 2), timestep, states).sample
    empty, told = both.chunk(2)
    mixed: Tensor = empty + INVERSION_GUIDANCE * (told - empty)
    return mixed
