"""The latent-diffusion adapter: pictures under captions as surrogate log-likelihoods, and back to pictures.

Letters: N rows, S samples, D noise draws per sample, C latent channels of size h x w, L text positions of
T text towers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from mmalign.adapters._captions import Captions
from mmalign.adapters._ddim import Condition, sample_latents
from mmalign.adapters._noise import Schedule, draw_one, mean_error
from mmalign.adapters._pictures import encode_pictures, picture_of, square, time_ids, to_picture
from mmalign.adapters._pipeline import Parts, fitting_resolution
from mmalign.adapters._pipeline_saving import fingerprint_of, save_lora, save_pipeline
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import (
    Batch,
    Draw,
    Example,
    Kind,
    LogProbs,
    Message,
    Part,
    PreferenceSample,
    Prepared,
    Row,
    RowView,
)

_PREPARATION = "square-lanczos-1"  # change it when prepare or encode give other tensors for the same row


class Denoiser:
    """Scores and samples pictures with a text-conditioned UNet over a frozen autoencoder's latents."""

    kind: Kind = Diffusion.kind
    frames = None  # reads no videos
    offers: frozenset[str] = Diffusion.offers
    media: frozenset[str] = Diffusion.media
    lora_targets: str | list[str] = ["to_q", "to_k", "to_v", "to_out.0"]

    def __init__(self, config: Diffusion, parts: Parts, device: torch.device) -> None:
        """Move the parts to `device`. Raises UserError if the resolution does not fit the autoencoder."""
        self.device = device
        self._config = config
        self._parts = parts
        self._family = parts.family
        self.policy: nn.Module = parts.pipeline.unet.to(device)
        self.parts = {"denoiser": [name for name, _ in self.policy.named_parameters()]}
        self._vae = parts.pipeline.vae.to(device)
        self._towers = nn.ModuleList([encoder.to(device) for encoder in parts.encoders])
        self._schedule = Schedule.of(
            parts.trained.alphas_cumprod, parts.trained.config.prediction_type, device
        )
        self.resolution = fitting_resolution(parts, config.resolution)
        self._captions = Captions(
            parts.family.towers, parts.tokenizers, parts.encoders, device, parts.zeros_for_empty
        )
        self._fingerprint: str | None = None

    # ------------------------------------------------------------ rows

    def check(self, sample: PreferenceSample, roles: Sequence[str]) -> tuple[str, ...]:
        """What is shortened or enlarged in the sample: captions longer than the text encoder takes lose their
        end, as is usual for this family. Raises UserError unless every response of the roles is one picture
        under one caption."""
        found = []
        for role in roles:
            for slot, example in enumerate(sample.examples.get(role, ())):
                caption, picture = self._read(sample, role, slot, example)
                if self._captions.ids(caption)[1]:
                    found.append("captions cut to fit")
                if min(picture.size) < self.resolution:
                    found.append("pictures enlarged")
        return tuple(found)

    def _read(
        self, sample: PreferenceSample, role: str, slot: int, example: Example
    ) -> tuple[str, Image.Image]:
        where = f"{sample.origin or sample.id}: {role}"
        if len(sample.examples[role]) > 1:
            where += f"[{slot}]"
        return self._captions.read(example.prompt, where), picture_of(example.response, where)

    def prepare(self, sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
        """Rows with `pixels` uint8 [3, R, R], `input_ids` [T, L] long and, where the denoiser is told sizes,
        `time_ids` [6] float32 of this very picture."""
        rows = [
            self._prepared_row(role, slot, *self._read(sample, role, slot, example))
            for role in roles
            for slot, example in enumerate(sample.examples.get(role, ()))
        ]
        return Prepared(sample.id, tuple(rows))

    def _prepared_row(self, role: str, slot: int, caption: str, picture: Image.Image) -> Row:
        pixels = square(picture, self.resolution)
        data = {"pixels": pixels, "input_ids": self._captions.ids(caption)[0]}
        digest = hashlib.blake2b(pixels.numpy().tobytes(), digest_size=16)
        digest.update(f"\x1f{_PREPARATION}\x1f{self.resolution}\x1f".encode())
        if self._family.sized:
            data["time_ids"] = time_ids(picture, self.resolution)
            digest.update(f"{data['time_ids'].tolist()}\x1f".encode())
        digest.update(caption.encode("utf-8", "surrogatepass"))
        return Row(role, slot, data, digest.hexdigest())

    def describe(self, row: Row) -> RowView:
        """The caption as the text encoders read it, and the square picture."""
        text, count = self._captions.words(row.data["input_ids"])
        pixels: Tensor = row.data["pixels"]
        size = f"picture: {pixels.shape[2]}x{pixels.shape[1]}"
        return RowView({"caption": count}, self._captions.width, text, media=(size,), pictures=(pixels,))

    def encode(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        """Rows with `mean` and `logvar` [C, h, w] and the family's condition, `states` [L, width] first, all
        float32 on the CPU.

        Every distinct picture and every distinct caption runs once.
        """
        rows = [row for sample in prepared for row in sample.rows]
        texts = self._captions.conditions([row.data["input_ids"] for row in rows])
        moments = encode_pictures(self._vae, [row.data["pixels"] for row in rows], self.device)
        done = []
        for row, (mean, logvar), text in zip(rows, moments, texts, strict=True):
            sizes = {"time_ids": row.data["time_ids"]} if self._family.sized else {}
            done.append(replace(row, data={"mean": mean, "logvar": logvar, **text, **sizes}))
        remaining = iter(done)
        return [replace(sample, rows=tuple(islice(remaining, len(sample.rows)))) for sample in prepared]

    def fingerprint(self) -> str:
        """Hash of the frozen encoders, the tokenizer and how pictures and captions are prepared."""
        if self._fingerprint is None:
            settings = f"{_PREPARATION}/{self.resolution}/{self._captions.width}"
            text = f"{fingerprint_of(self._parts)}/{settings}"
            self._fingerprint = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
        return self._fingerprint

    # ------------------------------------------------------------ scoring

    def collate(self, encoded: Sequence[Prepared], roles: Sequence[str]) -> Batch:
        """Encoded rows of `roles`, sample by sample, as one batch on the device."""
        picked = [
            (index, row)
            for index, sample in enumerate(encoded)
            for role in roles
            for row in sample.rows
            if row.role == role
        ]
        if not picked:
            raise ValueError(f"no rows of the roles {', '.join(roles)} in these samples")
        inputs = {
            name: torch.stack([row.data[name] for _, row in picked]).to(self.device, non_blocking=True)
            for name in ("mean", "logvar", *self._family.condition)
        }
        inputs |= {f"empty_{name}": value.to(self.device) for name, value in self._captions.empty.items()}
        return Batch(
            inputs=inputs,
            roles=tuple(roles),
            row_role=torch.tensor([roles.index(row.role) for _, row in picked]),
            row_sample=torch.tensor([index for index, _ in picked]),
            row_slot=torch.tensor([row.slot for _, row in picked]),
            sample_ids=tuple(sample.sample_id for sample in encoded),
        )

    def draw(self, batch: Batch, seeds: Sequence[int]) -> Draw:
        """One draw per sample, shared by its rows: `timestep` [S, D] long, `noise` [S, D, C, h, w],
        `latent_noise` [S, C, h, w] and `drop` [S] bool, whether the caption is replaced by the empty one."""
        if len(seeds) != len(batch.sample_ids):
            raise ValueError(f"{len(batch.sample_ids)} samples need as many seeds, got {len(seeds)}")
        config, shape = self._config, tuple(batch.inputs["mean"].shape[1:])
        bounds = config.timesteps.bounds(self._schedule.num_timesteps)
        drawn = [
            draw_one(seed, shape, bounds, config.num_draws, config.caption_dropout, config.noise_offset)
            for seed in seeds
        ]
        return {
            name: torch.stack([one[name] for one in drawn]).to(self.device, non_blocking=True)
            for name in drawn[0]
        }

    def logprobs(self, model: nn.Module, batch: Batch, draw: Draw, needs: frozenset[str]) -> LogProbs:
        """Surrogates -w(t) * e / 2, [N, D], with `error` e and `timestep` t / T; one forward for all rows.

        The error comes with every score; `prediction` and `target` [N, D, C, h, w] where `needs` names them.
        """
        x0, condition = self._latents(batch, draw), self._row_conditions(batch, draw)
        timestep, noise = draw["timestep"][batch.row_sample], draw["noise"][batch.row_sample]
        num_rows, num_draws = timestep.shape
        x0 = x0.unsqueeze(1).expand_as(noise).flatten(0, 1)
        eps, t = noise.flatten(0, 1), timestep.flatten()
        condition = {name: value.repeat_interleave(num_draws, 0) for name, value in condition.items()}
        prediction = self._denoise(model, self._schedule.noised(x0, eps, t), t, condition)
        target = self._schedule.target(x0, eps, t)
        error = mean_error(prediction, target)
        weight = self._schedule.weight(t, self._config.weighting, self._config.gamma or 5.0)
        return LogProbs(
            values=(-0.5 * weight * error).reshape(num_rows, num_draws),
            mask=torch.ones(num_rows, num_draws, dtype=torch.bool, device=self.device),
            kind=self.kind,
            unit="draw",
            sample=batch.row_sample,
            slot=batch.row_slot,
            error=error.reshape(num_rows, num_draws),
            timestep=timestep / self._schedule.num_timesteps,
            signal=self._schedule.signal[timestep],
            prediction=prediction.float().unflatten(0, timestep.shape) if "prediction" in needs else None,
            target=target.unflatten(0, timestep.shape) if "prediction" in needs else None,
        )

    def _latents(self, batch: Batch, draw: Draw) -> Tensor:
        """Clean latents [N, C, h, w], scaled as the denoiser knows them."""
        latents = batch.inputs["mean"]
        if self._config.vae_sample:
            deviation = torch.exp(0.5 * batch.inputs["logvar"].clamp(-30.0, 20.0))
            latents = latents + deviation * draw["latent_noise"][batch.row_sample]
        return latents * self._vae.config.scaling_factor

    def _row_conditions(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """What the denoiser is told of every row; a dropped caption leaves its picture's sizes in place."""
        condition = {name: batch.inputs[name] for name in self._family.condition}
        dropped = draw["drop"][batch.row_sample]
        for name in self._captions.empty:
            shaped = dropped.reshape(-1, *[1] * (condition[name].ndim - 1))
            condition[name] = torch.where(shaped, batch.inputs[f"empty_{name}"], condition[name])
        return condition

    def _denoise(self, model: Any, noised: Tensor, timestep: Tensor, condition: Condition) -> Tensor:
        """The model's prediction; inputs take its weights' type, timesteps stay integers."""
        dtype = model.conv_in.weight.dtype
        output: Tensor = model(noised.to(dtype), timestep, **self._family.arguments(condition, dtype)).sample
        return output

    @torch.no_grad()
    def self_check(self, model: Any, batch: Batch, draw: Draw | None = None) -> float:
        """Largest difference between row 0's errors and a plain computation with upstream's scheduler."""
        drawn = self.draw(batch, range(len(batch.sample_ids))) if draw is None else draw
        ours = self.logprobs(model, batch, drawn, frozenset({"error"})).error
        assert ours is not None
        sample, scheduler = int(batch.row_sample[0]), self._parts.trained
        x0 = self._latents(batch, drawn)[:1]
        condition = {name: batch.inputs[name][:1] for name in self._family.condition}
        if drawn["drop"][sample]:
            condition |= {name: batch.inputs[f"empty_{name}"][None] for name in self._captions.empty}
        gap = 0.0
        for index, timestep in enumerate(drawn["timestep"][sample]):
            t, eps = timestep.reshape(1), drawn["noise"][sample, index][None]
            known = scheduler.config.prediction_type == "epsilon"
            target = eps if known else scheduler.get_velocity(x0, eps, t)
            prediction = self._denoise(model, scheduler.add_noise(x0, eps, t), t, condition)
            theirs = torch.nn.functional.mse_loss(prediction.float(), target)
            gap = max(gap, abs(float(theirs - ours[0, index])))
        return gap

    # ------------------------------------------------------------ pictures

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        """One picture per prompt as Part("image", PIL image); a safety checker is never run."""
        return [Part("image", to_picture(pixels)) for pixels in self.sample_pixels(model, prompts, seeds)]

    @torch.no_grad()
    def sample_pixels(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> Tensor:
        """Sampled pictures in 0..1 on the CPU, [len(prompts), 3, R, R] float32."""
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
        settings, done = self._config.generation, [torch.empty(0, 3, self.resolution, self.resolution)]
        read = [self._captions.read(prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
        ids = [self._captions.ids(caption)[0] for caption in read]
        side = self.resolution // self._parts.pipeline.vae_scale_factor
        for start in range(0, len(prompts), settings.batch):
            part = slice(start, start + settings.batch)
            latents = sample_latents(
                lambda x, t, condition: self._denoise(model, x, t, condition),
                self._parts.pipeline.scheduler,
                self._new_pictures(self._captions.conditions(ids[part])),
                self._new_pictures([self._captions.empty] * len(ids[part])),
                (self._vae.config.latent_channels, side, side),
                seeds[part],
                settings,
            )
            pixels = self._vae.decode(latents / self._vae.config.scaling_factor).sample
            done.append((pixels / 2 + 0.5).clamp(0, 1).float().cpu())
        return torch.cat(done)

    def _new_pictures(self, texts: Sequence[Condition]) -> dict[str, Tensor]:
        """Conditions of pictures that are yet to be: of the full size, and uncropped."""
        condition = {name: torch.stack([text[name] for text in texts]).to(self.device) for name in texts[0]}
        if self._family.sized:
            sizes = torch.tensor([self.resolution, self.resolution, 0, 0, self.resolution, self.resolution])
            condition["time_ids"] = sizes.float().to(self.device).expand(len(texts), -1)
        return condition

    # ------------------------------------------------------------ the trained model

    def enable_checkpointing(self) -> None:
        """Recompute the policy's activations in backward instead of keeping them."""
        self._parts.pipeline.unet.enable_gradient_checkpointing()

    def save(self, model: nn.Module, folder: Path, lora: str | None) -> None:
        """A whole pipeline of the family, or the LoRA adapter `lora` for its `load_lora_weights`."""
        if lora is None:
            save_pipeline(self._parts, model, folder)
        else:
            save_lora(self._parts, model, folder, lora)
