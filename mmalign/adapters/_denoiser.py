"""The latent-diffusion adapter: pictures and clips under captions as surrogate log-likelihoods, and back.

Letters: N rows, S samples, D noise draws per sample, C latent channels; latents are [C, h, w] of a picture
and [C, f, h, w] of a clip, written [C, ...].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmalign.adapters._denoiser_paths import Told, implied_noise, score_path, whole_paths
from mmalign.adapters._families import Condition, base_type
from mmalign.adapters._latent_sampling import Generation, Sampler
from mmalign.adapters._media_copies import MediaCopies
from mmalign.adapters._noise import FLOW_WEIGHTINGS, Schedule, draw_one, mean_error
from mmalign.adapters._pictures import to_picture
from mmalign.adapters._pipeline import Parts
from mmalign.adapters._pipeline_saving import beside_lora, save_lora, save_pipeline
from mmalign.adapters._rollout import Gradients, first_steps
from mmalign.adapters._segments import by_segment
from mmalign.adapters._transfer import sent
from mmalign.adapters._transitions import score_steps
from mmalign.adapters._user_branches import taken_out
from mmalign.adapters._user_files import save_users
from mmalign.adapters._users import INDEX, drop_users, parts_of, users_of
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import Batch, Clip, Draw, Inversion, Kind, LogProbs, Message, Part, Rollout, UserError


class Denoiser(MediaCopies):
    """Scores and samples with a text-conditioned denoiser over a frozen autoencoder's latents."""

    kind: Kind = Diffusion.kind
    offers: frozenset[str] = Diffusion.offers
    media: frozenset[str] = Diffusion.media

    def __init__(self, config: Diffusion, parts: Parts, device: torch.device) -> None:
        """Move the parts to `device`. Raises UserError where the config does not fit the pipeline."""
        super().__init__(config, parts, device)
        self.policy: nn.Module = parts.denoiser.to(device)
        self.parts = parts_of(self.policy)
        self.lora_targets: str | list[str] = list(self._family.lora_targets)
        self._schedule = parts.schedule(device)
        self._bounds = config.timesteps.bounds(self._schedule.num_timesteps, self._family.noisiest)
        name = self._family.pipeline.__name__
        _check_noise(config, self._schedule, self._bounds, name)
        if config.generation.eta and (self._schedule.flow or self._family.scheduler is not None):
            raise UserError(f"model.generation.eta: the sampler of a {name} adds no noise; remove it")
        if config.distilled_guidance is not None and not self._told_guidance:
            raise UserError(
                f"model.distilled_guidance: {parts.folder} holds no guidance-distilled denoiser; remove it"
            )

    @property
    def num_noise_levels(self) -> int:
        """T, the integer noise levels that draws choose from."""
        return self._schedule.num_timesteps

    def level_at(self, share: float) -> int:
        """The integer level at a share of those that draws choose from, 0 the least noisy of them."""
        chosen = sorted(self._config.timesteps.levels or range(*self._bounds))
        return int(chosen[round(share * (len(chosen) - 1))])

    @property
    def _told_guidance(self) -> bool:
        """True if the denoiser takes the strength of guidance as an input."""
        return self._family.distilled and bool(self._parts.denoiser.config.get("guidance_embeds"))

    # ------------------------------------------------------------ scoring

    def draw(self, batch: Batch, seeds: Sequence[int]) -> Draw:
        """One draw per sample, shared by its rows: `timestep` [S, D] long, `noise` [S, D, C, ...],
        `latent_noise` [S, C, ...] and `drop` [S] bool, whether the caption is replaced by the empty one."""
        if len(seeds) != len(batch.sample_ids):
            raise ValueError(f"{len(batch.sample_ids)} samples need as many seeds, got {len(seeds)}")
        if "path" in batch.inputs:
            return self._path_draw(batch)
        config, shape = self._config, tuple(batch.inputs["mean"].shape[1:])

        def levels(count: int, stream: torch.Generator) -> Tensor:
            return config.timesteps.sample(count, self._bounds, stream)

        drawn = [
            draw_one(seed, shape, levels, config.num_draws, config.caption_dropout, config.noise_offset)
            for seed in seeds
        ]
        found = {name: torch.stack([one[name] for one in drawn]) for name in drawn[0]}
        if config.user is not None:
            found["no_user"] = drop_users(seeds, config.user.dropout)
        return {name: sent(values, self.device) for name, values in found.items()}

    def logprobs(self, model: nn.Module, batch: Batch, draw: Draw, needs: frozenset[str]) -> LogProbs:
        """Surrogates -w(t) * e / 2, [N, D], with `error` e and `timestep`; one forward for all rows.

        The error comes with every score; `prediction` and `target` [N, D, C, ...] where `needs` names them,
        both scaled so that their mean squared difference is e. Where it names "segments", one surrogate per
        segment of a clip, [N, S], the mean over draws of errors averaged inside it.
        """
        if "path" in batch.inputs:
            return score_steps(self._told(model, batch, draw), batch, draw)
        if "path_led" in draw:
            return score_path(self._told(model, batch, draw), batch, draw, needs)
        x0, condition = self._clean_latents(batch, draw), self._row_conditions(batch, draw)
        timestep = _of_rows(draw["timestep"], batch)
        noise = draw["row_noise"] if "row_noise" in draw else _of_rows(draw["noise"], batch)
        x0 = x0.unsqueeze(1).expand_as(noise).flatten(0, 1)
        eps, t = noise.flatten(0, 1), timestep.flatten()
        condition = {name: value.repeat_interleave(timestep.shape[1], 0) for name, value in condition.items()}
        noised = self._schedule.noised(x0, eps, t)
        prediction = self._denoise(model, noised, self._schedule.time(t), condition).float()
        target = self._schedule.target(x0, eps, t)
        error = mean_error(prediction, target)
        rescaling = self._schedule.rescaling(t, self._config.error_space)
        gamma = self._config.gamma or 5.0
        weight = self._schedule.weight(t, self._config.weighting, gamma, self._config.error_space)
        scored = LogProbs(
            values=(-0.5 * weight * rescaling * error).reshape(timestep.shape),
            mask=torch.ones_like(timestep, dtype=torch.bool),
            kind=self.kind,
            unit="draw",
            sample=batch.row_sample,
            slot=batch.row_slot,
            error=(rescaling * error).reshape(timestep.shape),
            timestep=self._schedule.share(timestep),
            signal=self._schedule.signal[timestep],
        )
        if "segments" in needs:
            if "segments" not in batch.inputs:
                raise UserError("segments: a row has no label of that name; give it, or set model.segments")
            factors = torch.stack([-0.5 * weight * rescaling, rescaling]).unflatten(1, timestep.shape)
            return by_segment(scored, prediction, target, factors, batch.inputs["segments"])
        if "prediction" not in needs:
            return scored
        root = rescaling.sqrt().reshape(-1, *[1] * (target.ndim - 1))
        shape = timestep.shape
        return replace(
            scored,
            prediction=(root * prediction).unflatten(0, shape),
            target=(root * target).unflatten(0, shape),
        )

    @torch.no_grad()
    def invert(
        self, model: nn.Module, batch: Batch, draw: Draw, inversion: Inversion, seeds: Sequence[int]
    ) -> Draw:
        """What an inversion led by `model` adds to a draw: whole paths of the mean latents, or the noise that
        leads to the drawn level, `row_noise` [N, D, C, ...]."""
        told = self._told(model, batch, draw)
        if inversion.whole:
            clean = self._latents.normalised(batch.inputs["mean"])
            guidance = torch.full((len(clean),), inversion.guidance)  # on the CPU, where reading is free
            return {**whole_paths(told, clean, inversion), "path_guidance": guidance}
        x0, timestep = self._clean_latents(batch, draw), _of_rows(draw["timestep"], batch)
        noise = implied_noise(told, x0, timestep, inversion, seeds, batch.row_sample)
        return {"row_noise": noise}

    def _told(self, model: nn.Module, batch: Batch, draw: Draw) -> Told:
        condition = self._row_conditions(batch, draw)
        empty = dict(condition)
        for name in self._captions.empty:
            empty[name] = batch.inputs[f"empty_{name}"].expand_as(condition[name])
        return Told(
            lambda x, time, told: self._denoise(model, x, time, told), self._schedule, condition, empty
        )

    def _clean_latents(self, batch: Batch, draw: Draw) -> Tensor:
        """Clean latents [N, C, ...], normalised as the denoiser knows them."""
        moments = {name: batch.inputs[name] for name in ("mean", "logvar") if name in batch.inputs}
        if self._config.flip:
            mirrored = _of_rows(draw["flip"], batch).reshape(-1, *[1] * (moments["mean"].ndim - 1))
            moments = {n: torch.where(mirrored, batch.inputs[f"flipped_{n}"], v) for n, v in moments.items()}
        latents = moments["mean"]
        if self._config.vae_sample and "logvar" in moments:
            deviation = torch.exp(0.5 * moments["logvar"].clamp(-30.0, 20.0))
            latents = latents + deviation * _of_rows(draw["latent_noise"], batch)
        return self._latents.normalised(latents)

    def _row_conditions(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """What the denoiser is told of every row; a dropped caption leaves its picture's sizes in place."""
        condition = {name: batch.inputs[name] for name in self._family.conditions}
        dropped = _of_rows(draw["drop"], batch)
        for name in self._captions.empty:
            shaped = dropped.reshape(-1, *[1] * (condition[name].ndim - 1))
            condition[name] = torch.where(shaped, batch.inputs[f"empty_{name}"], condition[name])
        return condition | self._row_users(batch, draw)

    def _row_users(self, batch: Batch, draw: Draw) -> dict[str, Tensor]:
        """Whose every row is, [N] places in the table, -1 for none; nothing for a model without users."""
        if INDEX not in batch.inputs:
            return {}
        index = batch.inputs[INDEX]
        dropped = _of_rows(draw["no_user"], batch)
        return {INDEX: torch.where(dropped, torch.full_like(index, -1), index)}

    def _denoise(self, model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The model's prediction at noise levels `time` [B] or []; inputs take its weights' type."""
        dtype, exact = base_type(model), self._family.exact
        told = {
            name: value.to(dtype) if value.is_floating_point() and name not in exact else value
            for name, value in condition.items()
        }
        if self._told_guidance:
            value = self._config.distilled_guidance or self._family.distilled_guidance
            told["guidance"] = torch.full((len(noised),), value, device=noised.device)
        table, index = users_of(model), told.pop(INDEX, None)
        if table is not None and (vectors := table.told(index, len(noised))) is not None:
            told["user"] = vectors
        return self._family.predict(model, noised.to(dtype), time.reshape(-1).expand(len(noised)), told)

    @torch.no_grad()
    def self_check(self, model: Any, batch: Batch, draw: Draw | None = None) -> float:
        """Largest difference between row 0's errors and a plain computation with upstream's scheduler."""
        drawn = self.draw(batch, range(len(batch.sample_ids))) if draw is None else draw
        if "path" in batch.inputs:
            scored = self.logprobs(model, batch, drawn, frozenset()).values[0, 0]
            return abs(float(scored - self._upstream_density(self._told(model, batch, drawn), batch)))
        ours = self.logprobs(model, batch, drawn, frozenset({"error"})).error
        assert ours is not None
        sample = int(batch.row_sample[0])
        x0 = self._clean_latents(batch, drawn)[:1]
        condition = {name: batch.inputs[name][:1] for name in self._family.conditions}
        if drawn["drop"][sample]:
            condition |= {name: batch.inputs[f"empty_{name}"][None] for name in self._captions.empty}
        condition |= {name: index[:1] for name, index in self._row_users(batch, drawn).items()}
        gap = 0.0
        for index, timestep in enumerate(drawn["timestep"][sample]):
            noised, time, target = self._upstream(x0, drawn["noise"][sample, index][None], timestep)
            prediction = self._denoise(model, noised, time, condition)
            theirs = torch.nn.functional.mse_loss(prediction.float(), target)
            factor = self._schedule.rescaling(timestep.reshape(1), self._config.error_space)
            gap = max(gap, abs(float(theirs * factor - ours[0, index])))
        return gap

    def _upstream(self, x0: Tensor, eps: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Noised latents, what the denoiser is told of the noise level, and its target, by upstream's own
        scheduler and, for a flow, which has no target there, by its definition."""
        scheduler, t = self._parts.trained, timestep.reshape(1)
        if self._schedule.flow:
            time = scheduler.timesteps.sort().values.to(x0.device)[t]
            return scheduler.scale_noise(x0, time, eps), time, eps - x0
        kind = scheduler.config.prediction_type
        target = {"epsilon": eps, "sample": x0}.get(kind)
        if target is None:
            target = scheduler.get_velocity(x0, eps, t)
        return scheduler.add_noise(x0, eps, t), t, target

    # ------------------------------------------------------------ pictures and clips

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        """One picture per prompt as Part("image", PIL image), or one clip as Part("video", Clip); a safety
        checker is never run."""
        return self._media(self.sample_pixels(model, prompts, seeds))

    def _media(self, pixels: Tensor) -> list[Part]:
        if not self._family.video:
            return [Part("image", to_picture(one)) for one in pixels]
        return [Part("video", self._clip(one)) for one in pixels]

    def _responses(self, latents: Tensor) -> list[Part]:
        return self._media((self._latents.decode(latents) / 2 + 0.5).clamp(0, 1).float().cpu())

    def _clip(self, pixels: Tensor) -> Clip:
        rate, count = self.clip_rate, len(pixels)
        frames = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
        return Clip(frames, tuple(range(count)), tuple(i / rate for i in range(count)), rate, count, "memory")

    @torch.no_grad()
    def sample_pixels(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> Tensor:
        """Pictures [P, 3, R, R] or clips [P, F, 3, R, R] of P prompts, in 0..1 on the CPU, float32."""
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
        size = self._config.generation.batch
        plane = (3, self.resolution, self.resolution)
        done = [torch.empty(0, *(() if self.num_frames is None else (self.num_frames,)), *plane)]
        captions = [self._captions.read(prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
        for start in range(0, len(prompts), size):
            part = slice(start, start + size)
            latents = self.sampler().sample(
                lambda x, time, condition: self._denoise(model, x, time, condition),
                self._new_media(self._captions.conditions(captions[part])),
                self._new_media([self._captions.empty] * len(captions[part])),
                self._latents.shape(self.resolution, self.resolution, self.num_frames),
                seeds[part],
                self.device,
            )
            pixels = self._latents.decode(latents)
            done.append((pixels / 2 + 0.5).clamp(0, 1).float().cpu())
        return torch.cat(done)

    def roll_out(self, model: nn.Module, batch: Batch, rollout: Rollout, seeds: Sequence[int]) -> Tensor:
        """Pictures [N, 3, R, R], or clips [N, F, 3, R, R], in 0..1 with their graph, one per row; samples
        whose gradient begins at the same step share their forwards."""
        if self._family.video:
            raise UserError("objective: rewards are of pictures, and this model makes clips")
        firsts, side = first_steps(rollout, seeds), self.resolution
        shape = self._latents.shape(side, side, self.num_frames)
        settings = replace(self._config.generation, steps=rollout.steps, eta=0.0)
        if rollout.guidance is not None:
            settings = replace(settings, guidance=rollout.guidance)
        sampler = self.sampler(settings)
        texts = [{n: batch.inputs[n][i] for n in self._captions.empty} for i in range(len(batch.row_sample))]
        done: dict[int, Tensor] = {}
        for first in sorted(set(firsts)):
            rows = [i for i, sample in enumerate(batch.row_sample.tolist()) if firsts[sample] == first]
            noise = sampler.start(shape, [seeds[int(batch.row_sample[i])] for i in rows], self.device)
            latents = Gradients(sampler, rollout, first).latents(
                lambda x, time, told: self._denoise(model, x, time, told),
                self._new_media([texts[i] for i in rows]),
                self._new_media([self._captions.empty] * len(rows)),
                shape,
                noise,
            )
            pixels = checkpoint(self._latents.decode, latents, use_reentrant=False)
            done |= dict(zip(rows, (pixels / 2 + 0.5).clamp(0, 1), strict=True))
        return torch.stack([done[i] for i in range(len(texts))])

    def sampler(self, settings: Generation | None = None) -> Sampler:
        """The sampling loop as the config, or `settings`, have it."""
        settings, family = settings or self._config.generation, self._family
        guidance = family.guidance if settings.guidance is None else settings.guidance
        if self._told_guidance and settings.guidance is None:
            guidance = 1.0  # the denoiser has learned it
        scheduler = self._parts.pipeline.scheduler
        return Sampler(scheduler, family.grid, family.flow, settings.steps, guidance, settings.eta or 0.0)

    def _new_media(self, texts: Sequence[Condition]) -> dict[str, Tensor]:
        """Conditions of media that are yet to be: of the full size, and uncropped."""
        condition = {name: torch.stack([text[name] for text in texts]).to(self.device) for name in texts[0]}
        if self._family.sizes is not None:
            side = self.resolution
            told = self._family.sizes([side, side, 0, 0, side, side]).to(self.device)
            condition["time_ids"] = told.expand(len(texts), -1)
        if self._family.clip_scale is not None:
            scale = self._family.clip_scale(self._parts.pipeline, self.clip_rate).to(self.device)
            condition["scale"] = scale.expand(len(texts), -1)
        return condition

    # ------------------------------------------------------------ the trained model

    def enable_checkpointing(self) -> None:
        """Recompute the policy's activations in backward instead of keeping them. Raises UserError where
        upstream's denoiser cannot."""
        denoiser = self._parts.denoiser
        if not denoiser._supports_gradient_checkpointing:
            raise UserError(f"train.checkpointing: {type(denoiser).__name__} has none; set it to false")
        denoiser.enable_gradient_checkpointing()

    def save(self, model: nn.Module, folder: Path, lora: str | None) -> None:
        """A whole pipeline of the family, or the LoRA adapter `lora` for its `load_lora_weights`."""
        with taken_out(model):
            if lora is None:
                save_pipeline(self._parts, model, folder)
            else:
                save_lora(self._parts, model, folder, lora)
        save_users(model, folder)

    def beside_lora(self) -> str | None:
        """What a pipeline needs beside a LoRA adapter to sample as it does here, as a line; None: nothing."""
        return beside_lora(self._parts)


def _of_rows(values: Tensor, batch: Batch) -> Tensor:
    """What samples have, [S, ...], for each of their rows, [N, ...]. The index goes to the device first: by
    one on the CPU the host would wait for all work of the device."""
    return values[batch.row_sample.to(values.device, non_blocking=True)]


def _check_noise(config: Diffusion, schedule: Schedule, bounds: tuple[int, int], family: str) -> None:
    """Settings about noise levels fit the schedule. Raises UserError."""
    if (config.weighting in FLOW_WEIGHTINGS) != schedule.flow and config.weighting != "none":
        kind = "a flow" if schedule.flow else "no flow"
        raise UserError(f"model.weighting: {config.weighting} does not suit a {family}, which is {kind}")
    if config.timesteps.shift is not None and not schedule.flow:
        raise UserError(f"model.timesteps.shift: only flows are shifted, and a {family} is none")
    if config.zero_terminal_snr and schedule.flow:
        raise UserError(f"model.zero_terminal_snr: a {family} is a flow and ends in pure noise anyway")
    levels = torch.tensor(config.timesteps.levels or (bounds[0], bounds[1] - 1))
    if int(levels.max()) >= schedule.num_timesteps:
        raise UserError(
            f"model.timesteps.levels: must be below {schedule.num_timesteps}, got {int(levels.max())}"
        )
    factors = schedule.rescaling(levels.to(schedule.signal.device), config.error_space)
    if not bool(torch.isfinite(factors).all()):
        raise UserError(
            f"model.error_space: {config.error_space} has no finite error at the ends of the noise levels; "
            "narrow model.timesteps"
        )
