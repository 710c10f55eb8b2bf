"""A diffusion family as its tests know it: a tiny folder, and what upstream's own parts do with it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import contract
import numpy as np
import torch
from adapters import tiny_families as tiny
from adapters.tiny_sd import pair, picture, prompt
from diffusers import DDIMScheduler, DDPMScheduler, DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import Batch, Clip, Example, Frames, Part, PreferenceSample

CPU = torch.device("cpu")
ROLES = ("chosen", "rejected")
CAPTIONS = ("a red cat", "a blue dog", "")
STEPS = 3

# (pipeline, x0, eps, integer level) -> noised latents, what the denoiser is told of the level, its target
Noise = Callable[[Any, Tensor, Tensor, int], tuple[Tensor, Tensor, Tensor]]
# (pipeline, noised [1, ...], time [], caption, time ids [1, n] or None) -> prediction, by one upstream call
Predict = Callable[[Any, Tensor, Tensor, str, Tensor | None], Tensor]


def diffusion_noise(pipeline: Any, x0: Tensor, eps: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
    """By upstream's DDPM scheduler over the pipeline's own noise levels."""
    scheduler, t = DDPMScheduler.from_config(pipeline.scheduler.config), torch.tensor([level])
    kind = scheduler.config.prediction_type
    target = scheduler.get_velocity(x0, eps, t) if kind == "v_prediction" else eps
    return scheduler.add_noise(x0, eps, t), torch.tensor(level), target


def flow_noise(shift: float) -> Noise:
    """Straight paths at (level + 1) thousandths of noise, moved by a static shift (arXiv 2403.03206)."""

    def noise(pipeline: Any, x0: Tensor, eps: Tensor, level: int) -> tuple[Tensor, Tensor, Tensor]:
        even = (level + 1) / 1000
        s = shift * even / (1 + (shift - 1) * even)
        return (1 - s) * x0 + s * eps, torch.tensor(1000 * s), eps - x0

    return noise


def scaled_latents(pipeline: Any, pixels: Tensor, noise: Tensor) -> Tensor:
    """Of pictures [1, 3, R, R] in -1..1: a sample of the distribution, shifted and scaled as a whole."""
    found, config = pipeline.vae.encode(pixels).latent_dist, pipeline.vae.config
    return (found.mean + found.std * noise - (config.shift_factor or 0.0)) * config.scaling_factor


def ddim(pipeline: Any) -> Any:
    """Upstream's sampler of a noise schedule, of the kind that the adapter uses."""
    return DDIMScheduler.from_config(pipeline.scheduler.config, clip_sample=False)


def euler(pipeline: Any) -> Any:
    """Upstream's sampler of a flow, of the kind that the adapter uses."""
    return FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config)


@dataclass(frozen=True)
class Subject:
    """A family's tiny folder, and what a plain loop over upstream's parts knows of it."""

    name: str  # a key of tiny.FAMILIES
    folder: Path
    predict: Predict
    noise: Noise = diffusion_noise
    latents: Callable[[Any, Tensor, Tensor], Tensor] = scaled_latents  # (pipeline, pixels, noise) -> x0
    scheduler: Callable[[Any], Any] = ddim  # pipeline -> the one that upstream's call is given
    # strength of guidance -> settings of upstream's call
    call: Callable[[float], dict[str, Any]] = lambda guidance: {"guidance_scale": guidance}
    pack: Callable[[Tensor], Tensor] = lambda latents: latents  # [B, C, ...] -> as upstream's call takes them
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the adapter, beside sizes
    samples: bool = True  # it makes media from noise
    unreached: tuple[str, ...] = ()  # parts of names of LoRA weights that upstream's denoiser never uses
    faults: tuple[tuple[Callable[[Path], Any], str], ...] = ()  # what breaks a folder, and the refusal
    kept: dict[int, Denoiser] = field(default_factory=dict)  # adapters that are only read, by their draws

    @property
    def size(self) -> tiny.Size:
        """Pixels and latents of one sample."""
        return tiny.SIZES[self.name]

    def adapter(self, folder: Path | None = None, **settings: Any) -> Denoiser:
        """A fresh adapter over the family's folder, or over another one."""
        frames = {} if self.size.frames is None else {"frames": Frames(count=self.size.frames)}
        given = {"resolution": self.size.side, **frames, **self.settings, **settings}
        return Diffusion(str(folder or self.folder), **given).build(CPU)

    def read(self, num_draws: int = 1) -> Denoiser:
        """An adapter over the family's folder, one for all who change nothing about it."""
        if num_draws not in self.kept:
            self.kept[num_draws] = self.adapter(num_draws=num_draws)
        return self.kept[num_draws]

    def pipeline(self, folder: Path | None = None) -> DiffusionPipeline:
        """A fresh upstream pipeline."""
        return tiny.load(folder or self.folder)

    def pairs(self, count: int = 2) -> tuple[PreferenceSample, ...]:
        """Pairs of different media under different captions, of the size that the denoiser works at."""
        return tuple(
            pair(f"s{i}", CAPTIONS[i], self._picture(2 * i), self._picture(2 * i + 1))
            if self.size.frames is None
            else PreferenceSample(
                f"s{i}",
                {
                    role: (Example(prompt(CAPTIONS[i]), (Part("video", self._clip(2 * i + k)),)),)
                    for k, role in enumerate(ROLES)
                },
            )
            for i in range(count)
        )

    def _picture(self, seed: int) -> Any:
        return picture(seed, self.size.side, self.size.side)

    def _clip(self, seed: int) -> Clip:
        count = self.size.frames or 1
        pictures = [np.array(self._picture(100 * seed + i)) for i in range(count)]
        frames = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()
        times = tuple(i / 8 for i in range(count))
        return Clip(frames, tuple(range(count)), times, 8.0, count, "memory")

    def case(self, adapter: Denoiser, count: int = 2) -> contract.Case:
        """The adapter with this many pairs."""
        return contract.Case(adapter, self.pairs(count))


def error(adapter: Denoiser, batch: Batch, draw: Any, model: nn.Module | None = None) -> Tensor:
    """Errors [N, D] of the policy, or of another denoiser."""
    module = adapter.policy if model is None else model
    found = adapter.logprobs(module, batch, draw, frozenset({"error"})).error
    assert found is not None
    return found


def drawn(adapter: Denoiser, batch: Batch, **changes: Tensor) -> dict[str, Tensor]:
    """A draw for the batch, the same each time, with some of it replaced."""
    return {**adapter.draw(batch, list(range(len(batch.sample_ids)))), **changes}


def add_lora(adapter: Denoiser, moved: bool = True) -> None:
    """LoRA layers where the family wants them; all weights random where `moved`, else the identity."""
    config = LoraConfig(r=2, lora_alpha=3, target_modules=list(adapter.lora_targets))
    inject_adapter_in_model(config, adapter.policy, adapter_name="policy")
    generator = torch.Generator().manual_seed(5)
    for name, parameter in adapter.policy.named_parameters():
        if "lora_" in name and moved:
            parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)


@contextmanager
def switched_off(policy: nn.Module) -> Iterator[None]:
    """Without the LoRA layers' part."""
    layers = [module for module in policy.modules() if isinstance(module, BaseTunerLayer)]
    for layer in layers:
        layer.enable_adapters(False)
    yield
    for layer in layers:
        layer.enable_adapters(True)
