"""Configuration of the Stable Diffusion adapter, 1.x, 2.x and XL: latents under a text-conditioned UNet.

The likelihood of a picture is the surrogate -w(t) * e / 2 of its denoising error e at noise levels drawn per
sample, as in Diffusion-DPO (arXiv 2311.12908). Importing this file loads no model library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from mmalign.adapters._ddim import Generation
from mmalign.adapters._noise import TimestepRange, Weighting
from mmalign.types import Kind

if TYPE_CHECKING:
    from mmalign.adapters._denoiser import Denoiser

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Diffusion:
    """A StableDiffusionPipeline or StableDiffusionXLPipeline whose UNet2DConditionModel predicts noise or
    velocity. XL is told every picture's own size and crop; its dropped captions are zeros where its
    model_index.json says `force_zeros_for_empty_prompt`, as in its own sampling."""

    path: str  # pipeline folder or hub id
    revision: str | None = None  # of a hub id
    variant: str | None = None  # reads unet/diffusion_pytorch_model.<variant>.safetensors and so on
    dtype: Literal["float32", "bfloat16"] | None = None  # of the frozen denoiser; null: as the run asks
    resolution: int | None = None  # side of the square pictures in pixels; null: the pipeline's own
    caption_dropout: float = 0.0  # chance that a sample is scored under the empty caption
    num_draws: int = 1  # noise draws per sample, averaged
    timesteps: TimestepRange = field(default_factory=TimestepRange)
    weighting: Weighting = "none"
    gamma: float | None = None  # of min_snr; 5 unless given
    noise_offset: float = 0.0  # standard deviation of a shift of each channel's noise
    vae_sample: bool = True  # draw latents from the autoencoder's distribution; false: use its mean
    generation: Generation = field(default_factory=Generation)

    kind: ClassVar[Kind] = "surrogate"
    offers: ClassVar[frozenset[str]] = frozenset({"ratio", "length", "error", "prediction"})
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
        if self.gamma is not None and self.weighting != "min_snr":
            raise ValueError(f"gamma: only read with weighting min_snr, got {self.gamma}")
        if self.gamma is not None and self.gamma <= 0:
            raise ValueError(f"gamma: must be above 0, got {self.gamma}")
        if self.noise_offset < 0:
            raise ValueError(f"noise_offset: must be 0 or more, got {self.noise_offset}")

    def build(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Denoiser:
        """Load the pipeline, its encoders and autoencoder in float32; `dtype` holds where the field of that
        name is null.

        Raises UserError naming the component that is missing, broken or of another family.
        """
        from mmalign.adapters._denoiser import Denoiser
        from mmalign.adapters._pipeline import load_parts

        chosen = dtype if self.dtype is None else _DTYPES[self.dtype]
        parts = load_parts(self.path, self.revision, self.variant, chosen)
        return Denoiser(self, parts, device)
