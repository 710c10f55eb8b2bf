"""Pictures and clips sampled along paths whose steps have a density, and such paths as rows."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.adapters._denoiser_paths import Told
from mmalign.adapters._denoiser_rows import DenoiserRows
from mmalign.adapters._families import Condition
from mmalign.adapters._latent_sampling import Generation, Noise, Sampler
from mmalign.adapters._noise import Schedule
from mmalign.adapters._transitions import Walk, log_density, refuse_flow
from mmalign.types import (
    Batch,
    BranchedPath,
    Draw,
    Message,
    Noising,
    Part,
    SampledPath,
    UserError,
    derive_seed,
)
from mmalign.walks import Judged


class PathSampling(DenoiserRows):
    """What a denoiser does with paths. `Denoiser` has the rest."""

    _schedule: Schedule

    @abstractmethod
    def sampler(self, settings: Generation | None = None) -> Sampler:
        """The sampling loop as the config has it."""

    @abstractmethod
    def _denoise(self, model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
        """The model's prediction."""

    @abstractmethod
    def _new_media(self, texts: Sequence[Condition]) -> dict[str, Tensor]:
        """Conditions of media that are yet to be."""

    @abstractmethod
    def _responses(self, latents: Tensor) -> list[Part]:
        """Clean latents decoded."""

    @abstractmethod
    def _told(self, model: nn.Module, batch: Batch, draw: Draw) -> Told:
        """The model with what it is told of every row."""

    @abstractmethod
    def _clean_latents(self, batch: Batch, draw: Draw) -> Tensor:
        """Clean latents [N, C, ...] of every row."""

    def other_noise(self, other: Noising) -> str | None:
        """How another's family, kind of prediction or noise levels differ from these; None if they do not."""
        if not isinstance(other, PathSampling):
            return f"it is a {type(other).__name__}, the policy a {type(self).__name__}"
        theirs, ours = (one._family.pipeline.__name__ for one in (other, self))
        if theirs != ours:
            return f"it is a {theirs}, the policy a {ours}"
        return self._schedule.difference(other._schedule)

    @torch.no_grad()
    def foreseen(self, model: nn.Module, batch: Batch, draw: Draw, guidance: float) -> tuple[Tensor, Tensor]:
        """Pictures [N, 3, H, W] in 0..1 that the model predicts in one step from every row noised by the
        first draw of its sample, and the noise levels [N] of these."""
        told, clean = self._told(model, batch, draw), self._clean_latents(batch, draw)
        sample = batch.row_sample.to(self.device, non_blocking=True)
        level, noise = draw["timestep"][sample, 0], draw["noise"][sample, 0]
        x = self._schedule.noised(clean, noise, level)
        prediction = told.predict(x, level, torch.arange(len(x), device=self.device), guidance)
        found = self._schedule.parts(prediction, x, level)[0]
        pixels = [self._latents.decode(some) for some in found.split(self._config.generation.batch)]
        return (torch.cat(pixels) / 2 + 0.5).clamp(0, 1).float(), level

    @torch.no_grad()
    def sample_paths(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[SampledPath]:
        """One picture or clip per prompt with the path to it, sampled with noise of share
        `generation.eta`, 1 where that is null. Raises UserError for a flow and for samplers without noise."""
        done: list[SampledPath] = []
        for _, walk, noise in self._walks(model, prompts, seeds):
            clean, rows = walk.paths(noise)
            done += [SampledPath(*one) for one in zip(self._responses(clean), rows, strict=True)]
        return done

    @torch.no_grad()
    def branch_paths(
        self,
        model: nn.Module,
        prompts: Sequence[tuple[Message, ...]],
        seeds: Sequence[int],
        branches: tuple[int, int],
        judged: Judged,
    ) -> list[BranchedPath]:
        """One path per prompt that branches at every step but the first ones and goes on from a random branch
        (arXiv 2406.04314, section 3.3); raises UserError as `sample_paths` does."""
        (count, first), done = branches, []
        for places, walk, noise in self._walks(model, prompts, seeds):
            if first >= walk.kept:
                raise UserError(
                    f"online.unbranched: {first} steps before the first branch, a path has only {walk.kept}"
                )
            asked = [place for place in places for _ in range(count)]

            def scores(latents: Tensor, level: int, asked: list[int] = asked) -> Tensor:
                size = self._config.generation.batch
                media = [part for some in latents.split(size) for part in self._responses(some)]
                return torch.tensor(judged(media, asked, level), dtype=torch.float64).reshape(-1, count)

            streams = [torch.Generator().manual_seed(derive_seed(seeds[i], 0, "", "branch")) for i in places]
            drawn = [torch.randint(count, (len(walk.level),), generator=stream) for stream in streams]
            clean, found = walk.branches(noise, count, first, scores, torch.stack(drawn))
            parts = self._responses(clean)
            for (chosen, rejected, margins), part in zip(found, parts, strict=True):
                done.append(BranchedPath(chosen, rejected, tuple(margins), part))
        return done

    def _walks(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> Iterator[tuple[range, Walk, Noise]]:
        """Places of some prompts, the walk to their media and the noise it draws, batch by batch."""
        if len(prompts) != len(seeds):
            raise ValueError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
        family, settings = self._family, self._config.generation
        refuse_flow(family.flow, family.scheduler is not None, family.pipeline.__name__)
        if settings.eta == 0:
            raise UserError(
                "model.generation.eta: without noise the sampler's steps have no density to train on; "
                "remove it (paths then take 1) or give a share above 0"
            )
        scheduler = self._parts.pipeline.scheduler
        for name in ("clip_sample", "thresholding"):
            if scheduler.config.get(name):
                raise UserError(
                    f"{self._parts.folder}/scheduler: {name} cuts predictions, which leaves the sampler's "
                    "steps without a density; set it to false"
                )
        captions = [self._captions.read(prompt, f"prompt {i}") for i, prompt in enumerate(prompts)]
        shape = self._latents.shape(self.resolution, self.resolution, self.num_frames)
        for start in range(0, len(prompts), settings.batch):
            places = range(start, min(start + settings.batch, len(prompts)))
            told = Told(
                lambda x, time, condition: self._denoise(model, x, time, condition),
                self._schedule,
                self._new_media(self._captions.conditions([captions[i] for i in places])),
                self._new_media([self._captions.empty] * len(places)),
            )
            sampler = self.sampler()
            noise = sampler.start(shape, [seeds[i] for i in places], self.device)
            eta = 1.0 if settings.eta is None else settings.eta
            yield places, Walk.of(told, scheduler.timesteps, sampler.guidance, eta), noise

    def _path_draw(self, batch: Batch) -> Draw:
        """All steps of every row, `path_pick` [N, K]; nothing about a stored path is random."""
        path = batch.inputs["path_level"]
        pick = torch.arange(path.shape[1], device=self.device).expand(len(path), -1)
        drop = torch.zeros(len(batch.sample_ids), dtype=torch.bool, device=self.device)
        return {"path_pick": pick, "drop": drop, "no_user": drop}

    def _upstream_density(self, told: Told, batch: Batch) -> Tensor:
        """Log-density [] of the first step of row 0, its mean and deviation by upstream's own sampler."""
        inputs, scheduler = batch.inputs, self._parts.pipeline.scheduler
        x, level = inputs["path"][:1, 0], inputs["path_level"][:1, 0]
        self.sampler().start(x.shape[1:], [0], self.device)
        rows = torch.zeros(1, dtype=torch.long, device=self.device)
        prediction = told.predict(x, level, rows, float(inputs["path_guidance"][0]))
        eta = float(inputs["path_eta"][0])
        mean, moved = (
            scheduler.step(prediction, level[0], x, eta=eta, variance_noise=noise).prev_sample
            for noise in (torch.zeros_like(x), torch.ones_like(x))
        )
        after = inputs["path_next"][:1, 0] if "path_next" in inputs else inputs["path"][:1, 1]
        return log_density(after, mean, (moved - mean).flatten(1).mean(1))[0]
