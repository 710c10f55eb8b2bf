"""What sets one kind of diffusion pipeline apart from the others, as one record per kind.

Every kind is a file in `families/` that defines `FAMILY`; the adapter asks the record and nothing else, so
that adding a kind is adding a file and naming its pipeline class in `FILES`.

Letters used for shapes: B noised latents (a row and one of its draws), C latent channels, F latent frames,
h x w their size, L text positions of width W, P width of a pooled caption.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.types import UserError

Condition = Mapping[str, Tensor]  # all that the denoiser is told of B latents beside the noise level, by name
Predict = Callable[[Any, Tensor, Tensor, Condition], Tensor]
Encode = Callable[[Any, list[str], bool], dict[str, Tensor]]

FILES = {
    "AnimateDiffPipeline": "animatediff",
    "CogVideoXPipeline": "cogvideox",
    "FluxPipeline": "flux",
    "HunyuanDiTPipeline": "hunyuan_dit",
    "LTXPipeline": "ltx_video",
    "PixArtSigmaPipeline": "pixart_sigma",
    "SanaPipeline": "sana",
    "StableDiffusion3Pipeline": "stable_diffusion_3",
    "StableDiffusionPipeline": "stable_diffusion",
    "StableDiffusionXLImg2ImgPipeline": "stable_diffusion_xl_refiner",
    "StableDiffusionXLPipeline": "stable_diffusion_xl",
    "TextToVideoSDPipeline": "modelscope",
    "WanPipeline": "wan",
}
"""Pipeline class of model_index.json -> file in `families/`."""


def scaled(vae: Any) -> tuple[Tensor, Tensor]:
    """Offset and factor of latents that are normalised as a whole: (z - shift_factor) * scaling_factor."""
    shift = vae.config.get("shift_factor") or 0.0
    return torch.tensor([float(shift)]), torch.tensor([float(vae.config.scaling_factor)])


@dataclass(frozen=True)
class Autoencoder:
    """How pictures and clips become latents. `per_frame`: a picture autoencoder runs over every frame."""

    per_frame: bool = False
    distribution: bool = True  # gives a mean and a variance; else the latents themselves
    affine: Callable[[Any], tuple[Tensor, Tensor]] = scaled  # vae -> offset, factor: [1] or [C] each
    decode: Callable[[Any, Tensor], Tensor] = lambda vae, z: vae.decode(z).sample
    factor: Callable[[Any], int] = lambda pipeline: int(pipeline.vae_scale_factor)  # pixels per latent
    frame_factor: Callable[[Any], int] = lambda pipeline: 1  # frames per latent frame after the first
    # a clip has a multiple of this many frames and one more; None: of `frame_factor`
    frame_step: Callable[[Any], int] | None = None


@dataclass(frozen=True)
class Family:
    """One kind of pipeline. Hooks take upstream's own objects and are a few lines each."""

    pipeline: type[Any]  # upstream's class
    denoiser: str  # component name: unet or transformer
    models: Mapping[str, tuple[type[Any], ...]]  # components with weights -> the classes they may be of
    tokenizers: Mapping[str, type[Any]]  # component -> upstream's class, the one that is shown first
    conditions: tuple[str, ...]  # names of the tensors of a Condition

    # (pipeline, captions, negative) -> the captions' part of a Condition, [B, ...] each, by upstream's own
    # encode_prompt; `negative`: as the caption that guidance moves away from, where that is encoded otherwise
    encode: Encode

    # (denoiser, x_t [B, C, h, w] or [B, C, F, h, w], time [B], condition) -> prediction of x_t's shape.
    # Floats come in the denoiser's type, except `exact` ones; time: integer level, of a flow 1000 * its s
    predict: Predict

    caption_lengths: Callable[[Any], tuple[int, ...]]  # pipeline -> tokens each tokenizer's encoder takes
    guidance: float  # of classifier-free guidance when sampling, unless the config says
    optional: frozenset[str] = frozenset()  # components that may be null
    exact: frozenset[str] = frozenset()  # tensors of a Condition that stay in float32 or integers
    flow: bool = False  # rectified flow; else a variance-preserving schedule
    video: bool = False
    autoencoder: Autoencoder = field(default_factory=Autoencoder)
    multiple: int = 1  # sides of the latents must be multiples of it
    largest: Callable[[Any], int | None] = lambda denoiser: None  # side of latents it can place
    num_frames: int = 16  # of a clip, unless the config says
    most_frames: Callable[[Any], int | None] = lambda pipeline: None  # that the denoiser takes
    frame_rate: float = 8.0  # frames per second of sampled clips, unless clips are cut at another rate
    # (pipeline, frames per second) -> what the denoiser is told of a clip's time and size, `scale`
    clip_scale: Callable[[Any, float], Tensor] | None = None
    noisiest: float = 1.0  # share of the noise levels it was trained on
    # (height, width, top, left, side h, side w) -> what the denoiser is told of a picture's size and crop
    sizes: Callable[[Sequence[float]], Tensor] | None = None
    # (scheduler, steps, shape of the latents) sets the sampler's timesteps
    grid: Callable[[Any, int, Sequence[int]], None] = lambda scheduler, steps, shape: scheduler.set_timesteps(
        steps
    )
    scheduler: type[Any] | None = None  # of a noise schedule and its sampling; None: DDPM and DDIM
    schedulers: tuple[str, ...] = ()  # classes that the pipeline may be published with; (): all of the kind
    # modules as loaded -> as the pipeline takes them; raises UserError starting with the folder's name
    check: Callable[[Path, Mapping[str, Any]], None] = lambda folder, parts: None
    assemble: Callable[[dict[str, nn.Module]], dict[str, nn.Module]] = lambda modules: modules
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))  # of the constructor
    sentences: bool = False  # `states` are those of CLIP towers alone, whose length the denoiser leaves open
    users: bool = False  # the denoiser can be told of users, as `user` [B, T, W] of the Condition
    zeros_flag: str | None = None  # entry of model_index.json: the empty caption is all zeros; true if absent
    distilled: bool = False  # may be told a guidance value: then `guidance` [B] stands in the Condition
    distilled_guidance: float = 3.5  # that value, unless the config says
    outdated: frozenset[str] = frozenset()  # components that a trained denoiser replaces: never saved
    lora_loader: bool = True  # the pipeline has load_lora_weights; else LoRA is saved as peft saves it
    lora_targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")

    @property
    def encoders(self) -> tuple[str, ...]:
        """Component names of the text encoders."""
        return tuple(name for name in self.models if name not in ("vae", self.denoiser))

    @property
    def components(self) -> tuple[str, ...]:
        """Names of all components that the adapter uses."""
        return (*self.models, *self.tokenizers, "scheduler")

    def zeros_for_empty(self, index: Mapping[str, Any]) -> bool:
        """True if the pipeline was trained with zeros in place of the empty caption's states."""
        return self.zeros_flag is not None and bool(index.get(self.zeros_flag, True))


def family_of(folder: Path, index: Mapping[str, Any]) -> Family:
    """The record of a pipeline's class. Raises UserError for one that is not known."""
    found = index.get("_class_name")
    if found not in FILES:
        raise UserError(
            f"{folder}/model_index.json: pipeline class must be one of {', '.join(sorted(FILES))} for "
            f"adapter diffusion, got {found}"
        )
    family: Family = importlib.import_module(f"mmalign.adapters.families.{FILES[found]}").FAMILY
    return family


def base_type(model: Any) -> torch.dtype:
    """Type of a denoiser's own weights, whatever its adapters, or the few weights that upstream never takes
    out of float32, are of."""
    others = ("lora_", *(model._keep_in_fp32_modules or ()))
    return next(p.dtype for name, p in model.named_parameters() if not any(part in name for part in others))
