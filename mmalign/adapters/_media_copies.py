"""Copies of pictures and clips: noised part of the way and denoised again, so that they keep their layout and
motion (arXiv 2108.01073; for clips arXiv 2506.03517)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby

import torch
from torch import Tensor, nn

from mmalign.adapters._path_sampling import PathSampling
from mmalign.adapters._segments import segment_of
from mmalign.types import Clip, Example, Message, Part, PreferenceSample, Row, UserError

_ROLE = "chosen"  # any role whose medium is there


class MediaCopies(PathSampling):
    """What a denoiser does with media that are there already. `Denoiser` has the rest."""

    @torch.no_grad()
    def copies(
        self,
        model: nn.Module,
        prompts: Sequence[tuple[Message, ...]],
        media: Sequence[Part],
        seeds: Sequence[int],
        strength: float,
    ) -> list[Part]:
        """A copy of every medium, of the size that it is trained on at; a clip keeps its pace. The latents
        that are noised are the mean of the autoencoder's distribution. Raises UserError as `check` does, and
        for a strength below the sampler's least level."""
        if not len(prompts) == len(media) == len(seeds):
            raise ValueError(
                f"{len(prompts)} prompts, {len(media)} media and {len(seeds)} seeds do not match"
            )
        rows = self._rows(prompts, media)
        done: dict[int, Part] = {}
        by_size = sorted(range(len(rows)), key=lambda i: tuple(rows[i].data["pixels"].shape))
        for _, alike in groupby(by_size, key=lambda i: tuple(rows[i].data["pixels"].shape)):
            places, size = list(alike), self._config.generation.batch
            for start in range(0, len(places), size):
                part = places[start : start + size]
                latents = self._copied(model, [rows[i] for i in part], [seeds[i] for i in part], strength)
                for place, copy in zip(part, self._responses(latents), strict=True):
                    done[place] = _paced(copy, media[place])
        return [done[place] for place in range(len(rows))]

    def _rows(self, prompts: Sequence[tuple[Message, ...]], media: Sequence[Part]) -> list[Row]:
        """Every medium under its prompt as `prepare` gives it; one that comes several times is read once."""
        known: dict[tuple[tuple[Message, ...], int], Row] = {}
        rows = []
        for place, (prompt, medium) in enumerate(zip(prompts, media, strict=True)):
            key = (prompt, id(medium.data))
            if key not in known:
                examples = {_ROLE: (Example(prompt, (medium,)),)}
                sample = PreferenceSample(f"medium {place}", examples)
                (known[key],) = self.prepare(sample, (_ROLE,)).rows
            rows.append(known[key])
        return rows

    def _copied(self, model: nn.Module, rows: Sequence[Row], seeds: Sequence[int], strength: float) -> Tensor:
        """Clean latents of new media from rows of one size."""
        pixels: list[Tensor] = [row.data["pixels"] for row in rows]
        means = torch.stack([moments["mean"] for moments in self._latents.encode(pixels)])
        texts = self._captions.conditions([row.data["caption"] for row in rows])
        own = self._of_media(rows)
        return self.sampler().sample_from(
            lambda x, time, condition: self._denoise(model, x, time, condition),
            (self._new_media(texts) | own, self._new_media([self._captions.empty] * len(rows)) | own),
            self._latents.normalised(means.to(self.device)),
            seeds,
            strength,
        )

    def _of_media(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """What the denoiser is told of media of these rows' size: a clip's own pace, and that a picture is
        whole, of the size it has now."""
        own: dict[str, Tensor] = {}
        if self._family.clip_scale is not None:
            own["scale"] = torch.stack([row.data["scale"] for row in rows]).to(self.device)
        if self._family.sizes is not None:
            height, width = rows[0].data["pixels"].shape[-2:]
            told = self._family.sizes([height, width, 0, 0, height, width]).to(self.device)
            own["time_ids"] = told.expand(len(rows), -1)
        return own

    def check_strength(self, strength: float) -> None:
        """Raise UserError for a strength below the sampler's least level."""
        sampler = self.sampler()
        sampler.start(self._latents.shape(self.resolution, self.resolution, self.num_frames), [], self.device)
        sampler.place_of(strength)

    def cuts(self, count: int) -> tuple[tuple[int, int], ...]:
        """First and one past the last frame of each segment: the frames of its latent frames. Raises
        UserError for pictures, and for more segments than latent frames."""
        latent = self._latent_frames
        if self.num_frames is None or latent is None:
            raise UserError("segments: are of clips, and this model makes pictures; remove them")
        if count > latent:
            raise UserError(f"segments: {count} of a clip with {latent} latent frames; give at most that")
        ends, factor = [0] * count, self._latents.frame_factor
        for place, segment in enumerate(segment_of(latent, count)):
            ends[segment] = place * factor + 1  # the first latent frame holds one frame, the others `factor`
        assert ends[-1] == self.num_frames
        return tuple(zip([0, *ends[:-1]], ends, strict=True))


def _paced(copy: Part, medium: Part) -> Part:
    """A copied clip at as many frames per second as its original; a picture as it is."""
    if not isinstance(copy.data, Clip):
        return copy
    rate, count = medium.data.sampled_rate, len(copy.data.frames)
    return Part("video", replace(copy.data, seconds=tuple(i / rate for i in range(count)), rate=rate))
