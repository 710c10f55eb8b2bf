"""Configuration of the diffusion adapter: latents of pictures or clips under a text-conditioned denoiser.

The likelihood of a picture is the surrogate -w(t) * e / 2 of its denoising error e at noise levels drawn per
sample, as in Diffusion-DPO (arXiv 2311.12908). Importing this file loads no model library.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters._noise import ErrorSpace, TimestepRange, Weighting
from mmalign.adapters._user_config import User
from mmalign.types import Frames, Kind

if TYPE_CHECKING:
    from mmalign.adapters._denoiser import Denoiser

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Diffusion:
    """A pipeline of diffusers for pictures or clips; model_index.json says which family it is.

    A denoiser that is told sizes is told every picture's own size and crop; dropped captions are what the
    pipeline guides away from when it samples, zeros for XL where its `force_zeros_for_empty_prompt` says so.

    Both sides of a pair of clips are cut by the one rule `frames`, each over its own video, whatever sizes,
    rates and lengths they have; a side that gives fewer frames than the rule asks for is refused.
    """

    path: str  # pipeline folder or hub id
    revision: str | None = None  # of a hub id
    variant: str | None = None  # reads unet/diffusion_pytorch_model.<variant>.safetensors and so on
    dtype: Literal["float32", "bfloat16"] | None = None  # of the frozen denoiser; null: as the run asks
    encoder_dtype: Literal["float32", "bfloat16"] = "float32"  # of the text encoders and their states
    resolution: int | None = None  # side of the square pictures in pixels; null: the pipeline's own
    # aspect: all pictures of a sample get the size of about resolution^2 nearest to the chosen one's ratio
    buckets: Literal["square", "aspect"] = "square"
    flip: bool = False  # mirror a sample's pictures, all alike, in half of its draws; keeps twice the latents
    # how clips are cut from videos, for families that make clips; null: as many frames as the family is made
    # for, from the start, at its own rate
    frames: Frames | None = None
    segments: int | None = None  # equal parts of every clip's time, scored apart; null: as a row's label says
    # cut: a text encoder does not see the end of a caption too long for it; segments: CLIP towers read every
    # sentence alone, and 240 of their states stand side by side (LongAlign, arXiv 2410.11817)
    long_captions: Literal["cut", "segments"] = "cut"
    user: User | None = None  # vectors of users, whom a row's label `user` names; the reference knows none
    caption_dropout: float = 0.0  # chance that a sample is scored under the empty caption
    num_draws: int = 1  # noise draws per sample, averaged
    # which noise levels are drawn in training
    timesteps: TimestepRange = field(default_factory=TimestepRange)
    # weight of an error by its level: min_snr for diffusion, sigma_sqrt and cosmap for flows
    weighting: Weighting = "none"
    gamma: float | None = None  # bound of the signal-to-noise ratio in min_snr; 5 unless given
    error_space: ErrorSpace = "native"  # errors of the prediction itself, or of what it implies
    zero_terminal_snr: bool = False  # rescale the noise levels to end in pure noise (arXiv 2305.08891)
    distilled_guidance: float | None = None  # told to a guidance-distilled denoiser; null: the family's usual
    noise_offset: float = 0.0  # standard deviation of a shift of each channel's noise
    vae_sample: bool = True  # draw latents from the autoencoder's distribution; false: use its mean
    generation: Generation = field(default_factory=Generation)  # how pictures and clips are sampled

    kind: ClassVar[Kind] = "surrogate"
    offers: ClassVar[frozenset[str]] = frozenset(
        {"ratio", "length", "error", "prediction", "segments", "inversion", "sampler", "transition"}
    )
    media: ClassVar[frozenset[str]] = frozenset()

    def __post_init__(self) -> None:
        if not self.path.strip():
            raise ValueError(f"path: must name a pipeline folder or hub id, got {self.path!r}")
        if self.resolution is not None and self.resolution < 8:
            raise ValueError(f"resolution: must be 8 pixels or more, got {self.resolution}")
        if not 0 <= self.caption_dropout < 1:
            raise ValueError(f"caption_dropout: must lie in [0, 1), got {self.caption_dropout}")
        if self.num_draws < 1:
            raise ValueError(f"num_draws: must be 1 or more, got {self.num_draws}")
        if self.segments is not None and self.segments < 1:
            raise ValueError(f"segments: must be 1 or more, got {self.segments}")
        if self.gamma is not None and self.weighting != "min_snr":
            raise ValueError(f"gamma: only read with weighting min_snr, got {self.gamma}")
        if self.gamma is not None and self.gamma <= 0:
            raise ValueError(f"gamma: must be above 0, got {self.gamma}")
        if self.noise_offset < 0:
            raise ValueError(f"noise_offset: must be 0 or more, got {self.noise_offset}")

    def with_users(self, folder: str) -> Diffusion:
        """The same model with the users that were saved in a folder, each as it is there."""
        assert self.user is not None
        return replace(self, user=replace(self.user, path=folder))

    def glance(self) -> None:
        """Raise UserError where the folder is plainly no pipeline of a known kind, before any row is read."""
        from mmalign.adapters._loading import glance_at

        glance_at(self.path, self.revision)  # a place that is not there is told before diffusers is imported
        from mmalign.adapters._pipeline import glance

        glance(self.path, self.revision)

    def build(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Denoiser:
        """Load the pipeline, its encoders and autoencoder in float32; `dtype` holds where the field of that
        name is null.

        Raises UserError naming the component that is missing, broken or of another family.
        """
        from mmalign.adapters._denoiser import Denoiser
        from mmalign.adapters._pipeline import Loading, load_parts

        denoiser = dtype if self.dtype is None else _DTYPES[self.dtype]
        encoders = _DTYPES[self.encoder_dtype]
        how = Loading(denoiser, encoders, self.zero_terminal_snr, self.timesteps.shift)
        parts = load_parts(self.path, self.revision, self.variant, how)
        return Denoiser(self, parts, device)
