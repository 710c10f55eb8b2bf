"""The frozen autoencoder of a pipeline: pictures and clips to latents and back.

Letters: C latent channels of size h x w over f latent frames; R side of a picture, F frames of a clip.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mmalign.adapters._families import Family
from mmalign.adapters._pictures import to_unit

_PICTURES = 8  # pictures, or frames of a clip, in one forward


class Latents:
    """Encodes pictures uint8 [3, H, W] as [C, h, w], or clips uint8 [F, 3, H, W] as [C, f, h, w]."""

    def __init__(self, family: Family, pipeline: Any, device: torch.device) -> None:
        """Move the pipeline's autoencoder to `device`."""
        self.vae = pipeline.vae.to(device)
        self._family, self._device = family, device
        self._offset, self._factor = (values.to(device) for values in family.autoencoder.affine(self.vae))
        self.factor = family.autoencoder.factor(pipeline)
        self.frame_factor = family.autoencoder.frame_factor(pipeline)

    @property
    def channels(self) -> int:
        """C."""
        config = self.vae.config
        return int(config.get("latent_channels") or config.get("z_dim"))

    def shape(self, width: int, height: int, num_frames: int | None) -> tuple[int, ...]:
        """Shape of the latents of a picture, or of a clip of `num_frames`, of that size in pixels."""
        plane = (height // self.factor, width // self.factor)
        if num_frames is None:
            return (self.channels, *plane)
        return (self.channels, (num_frames - 1) // self.frame_factor + 1, *plane)

    @torch.no_grad()
    def encode(self, media: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """`mean` and, where the autoencoder gives a distribution, `logvar` of each, before normalising, on
        the CPU in float32. Every distinct picture or clip runs once; all must be of one size."""
        keys = [hashlib.blake2b(one.numpy().tobytes(), digest_size=16).digest() for one in media]
        distinct = list(dict(zip(keys, media, strict=True)).items())
        found: dict[bytes, dict[str, Tensor]] = {}
        size = 1 if self._family.video else _PICTURES
        for start in range(0, len(distinct), size):
            part = distinct[start : start + size]
            moments = self._moments(torch.stack([one for _, one in part]))
            for i, (key, _) in enumerate(part):
                found[key] = {name: values[i].float().cpu().clone() for name, values in moments.items()}
        return [found[key] for key in keys]

    def _moments(self, pixels: Tensor) -> dict[str, Tensor]:
        """Of a batch of pictures [B, 3, H, W] or clips [B, F, 3, H, W]."""
        if not self._family.video:
            return self._run(to_unit(pixels.to(self._device)))
        if not self._family.autoencoder.per_frame:
            return self._run(to_unit(pixels.to(self._device)).transpose(1, 2))
        frames = [self._run(to_unit(part.to(self._device))) for part in pixels.flatten(0, 1).split(_PICTURES)]
        shape = pixels.shape[:2]
        return {n: torch.cat([f[n] for f in frames]).unflatten(0, shape).transpose(1, 2) for n in frames[0]}

    def _run(self, values: Tensor) -> dict[str, Tensor]:
        output = self.vae.encode(values)
        if "latent_dist" in output:
            return {"mean": output.latent_dist.mean, "logvar": output.latent_dist.logvar}
        return {"mean": output.latent}

    def normalised(self, latents: Tensor) -> Tensor:
        """Latents [B, C, ...] as the denoiser knows them."""
        return (latents - self._wide(self._offset, latents)) * self._wide(self._factor, latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] or clips [B, F, 3, H, W] in -1..1 from normalised latents, graph kept; in the
        autoencoder's own float32 also where autocast has the denoiser in half precision."""
        with torch.autocast(self._device.type, enabled=False):
            return self._decoded(latents.float())

    def _decoded(self, latents: Tensor) -> Tensor:
        raw = latents / self._wide(self._factor, latents) + self._wide(self._offset, latents)
        hook = self._family.autoencoder.decode
        if not self._family.video:
            return hook(self.vae, raw)
        if not self._family.autoencoder.per_frame:
            return hook(self.vae, raw).transpose(1, 2)
        frames = [hook(self.vae, part) for part in raw.transpose(1, 2).flatten(0, 1).split(_PICTURES)]
        return torch.cat(frames).unflatten(0, (raw.shape[0], raw.shape[2]))

    @staticmethod
    def _wide(values: Tensor, like: Tensor) -> Tensor:
        return values.reshape(1, -1, *[1] * (like.ndim - 2))
