"""Every diffusion family as a tiny saved pipeline: its builder, its call, and what its denoiser is told.

| family | denoiser gets, beside latents and timestep | latents [B, ...] (one picture or clip) | caption |
|---|---|---|---|
| sd2 | states [B,77,W] | C,H,W times `scaling_factor` | CLIP 77, last state, no mask |
| sdxl_refiner | states, pooled, time_ids [B,5] that end in a score | as sd2 | second tower only, layer -2 |
| sdxl_turbo | states of both towers, pooled, time_ids [B,6] | as sd2 | CLIP 77 twice, layer -2 |
| sd3 | states [B,77+256,W], pooled of both CLIP towers | C,H,W: (z - shift) * scale | CLIP 77 twice, T5 256 |
| flux | T5 states [B,512,W], CLIP pooled, guidance, ids | (z - shift) * scale, packed HW/4, 4C | T5 512 |
| pixart_sigma | states [B,300,W] and their mask; returns 2C channels | as sd2 | T5 300, masked |
| sana | states [B,300,W] and their mask | C,H,W times `scaling_factor`, no distribution | Gemma 300, masked |
| hunyuan_dit | BERT and T5 states with masks, sizes, style, rotary table; returns 2C | as sd2 | 77 and 256 |
| animatediff | states repeated for every frame [B*F,77,W] | C,F,H,W; autoencoder per frame | CLIP 77 |
| modelscope | states [B,77,W] | C,F,H,W; autoencoder per frame | CLIP 77 |
| cogvideox | states [B,226,W], rotary table (2b: none) | F,C,H,W times `scaling_factor` | T5 226, no mask |
| wan | states [B,512,W], zero past the end | C,F,H,W: (z - mean) / std by channel | UMT5 512 |
| ltx_video | states [B,128,W] and mask, frames, height, width, rotary scale | packed FHW,C: as wan | T5 128 |

The timestep is 0..999 (noise left in thousandths for flows), but flux takes it divided by 1000. `sd2`,
`hunyuan_dit` and both cogvideox predict velocity; sd3, flux, sana, wan and ltx_video noise minus data;
the others noise.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from adapters import tiny_image_families as image
from adapters import tiny_unet_families as unet
from adapters import tiny_video_families as video
from diffusers import DiffusionPipeline
from torch import Tensor, nn

Build = Callable[[Path, int], Path]

IMAGE: dict[str, Build] = {
    "sd2": unet.sd2,
    "sdxl_refiner": unet.sdxl_refiner,
    "sdxl_turbo": unet.sdxl_turbo,
    "sd3": image.sd3,
    "flux": image.flux,
    "flux_schnell": image.flux_schnell,
    "pixart_sigma": image.pixart_sigma,
    "sana": image.sana,
    "hunyuan_dit": image.hunyuan_dit,
}
VIDEO: dict[str, Build] = {
    "animatediff": video.animatediff,
    "modelscope": video.modelscope,
    "cogvideox": video.cogvideox,
    "cogvideox_2b": video.cogvideox_2b,
    "wan": video.wan,
    "ltx_video": video.ltx_video,
}
FAMILIES: dict[str, Build] = {**IMAGE, **VIDEO}


@dataclass(frozen=True)
class Size:
    """Pixels of a call and shape [C, ...] of its latents, one sample, unpacked."""

    side: int
    latents: tuple[int, ...]
    frames: int | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)  # of the pipeline's call


_FREE = {"use_resolution_binning": False}  # otherwise the pipeline snaps to its list of large sizes
SIZES: dict[str, Size] = {
    "sd2": Size(16, (4, 8, 8)),
    "sdxl_refiner": Size(16, (4, 8, 8)),
    "sdxl_turbo": Size(16, (4, 8, 8)),
    "sd3": Size(16, (4, 8, 8)),
    "flux": Size(16, (4, 8, 8)),
    "flux_schnell": Size(16, (4, 8, 8)),
    "pixart_sigma": Size(16, (4, 8, 8), settings=_FREE),
    "sana": Size(32, (4, 16, 16), settings=_FREE),
    "hunyuan_dit": Size(64, (4, 8, 8), settings=_FREE),
    "animatediff": Size(16, (4, 4, 8, 8), frames=4),
    "modelscope": Size(16, (4, 4, 8, 8), frames=4),
    "cogvideox": Size(32, (4, 3, 8, 8), frames=9),
    "cogvideox_2b": Size(32, (4, 3, 8, 8), frames=9),
    "wan": Size(32, (4, 3, 8, 8), frames=9),
    "ltx_video": Size(32, (8, 3, 8, 8), frames=9),
}


@dataclass(frozen=True)
class Call:
    """What a pipeline gave its denoiser in one step, and what came back."""

    inputs: Mapping[str, Any]
    prediction: Tensor


def load(folder: Path) -> DiffusionPipeline:
    """The saved pipeline, quiet."""
    pipeline = DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def denoiser(pipeline: DiffusionPipeline) -> nn.Module:
    """The network that predicts: `unet` of the older families, `transformer` of the newer ones."""
    parts = pipeline.components
    return parts["unet"] if "unet" in parts else parts["transformer"]


def sample(pipeline: DiffusionPipeline, name: str, caption: str, steps: int = 2, **changes: Any) -> Tensor:
    """Latents that the pipeline's own call ends with, as it returns them; the noise is drawn from seed 0."""
    size = SIZES[name]
    call: dict[str, Any] = {"num_inference_steps": steps, "output_type": "latent", **size.settings}
    if name == "sdxl_refiner":  # starts from a picture; at strength 1 from noise alone
        call |= {"image": torch.linspace(0, 1, 3 * size.side**2).view(1, 3, size.side, size.side)}
        call |= {"strength": 1.0}
    else:
        call |= {"height": size.side, "width": size.side}
    if size.frames is not None:
        call["num_frames"] = size.frames
    noise = torch.Generator().manual_seed(0)
    return pipeline(caption, generator=noise, return_dict=False, **{**call, **changes})[0]


@contextmanager
def recorded(network: nn.Module) -> Iterator[list[Call]]:
    """Every call of `network` made inside: its inputs by name, and its prediction."""
    calls: list[Call] = []
    signature = inspect.signature(network.forward)

    def keep(_: nn.Module, given: tuple[Any, ...], named: dict[str, Any], result: Any) -> None:
        inputs = signature.bind(*given, **named).arguments
        calls.append(Call(inputs, result[0] if isinstance(result, tuple) else result.sample))

    hook = network.register_forward_hook(keep, with_kwargs=True)
    try:
        yield calls
    finally:
        hook.remove()
