"""Sana (arXiv 2410.10629): a flow in the latents of a deep autoencoder, under a Gemma 2 decoder's states.

Captions follow upstream's instruction to the decoder and keep 300 states, the first and the last 299; the
empty caption that guidance moves away from, and that dropped captions become, follows none. Noise levels in
training are shifted by the scheduler's `flow_shift`; `timesteps.shift` replaces that. It is published with a
multistep solver; samples are made by Euler's method at the same levels.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diffusers import AutoencoderDC, SanaPipeline, SanaTransformer2DModel
from torch import Tensor
from transformers import Gemma2Model, GemmaTokenizer

from mmalign.adapters._families import Autoencoder, Condition, Family
from mmalign.adapters.families._flow import check_numbers, even_grid_by_size
from mmalign.adapters.families._unet import check_channels

_STATES = 300  # the start's and the caption's: the space that ends the instruction goes into its first token
_INSTRUCTION: list[str] = (
    inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default
)  # upstream has it there alone


def _check(folder: Path, parts: Mapping[str, Any]) -> None:
    check_channels(folder, parts, "transformer")
    wanted: dict[str, tuple[int, str]] = {
        "patch_size": (1, "as in this family"),
        "caption_channels": (parts["text_encoder"].config.hidden_size, "the width of text_encoder"),
        "guidance_embeds": (False, "as a SanaPipeline tells its denoiser no guidance"),
    }
    check_numbers(folder, parts["transformer"].config, wanted)


def _encode(pipeline: Any, captions: list[str], negative: bool) -> dict[str, Tensor]:
    side = pipeline.tokenizer.padding_side
    states, mask, _, _ = pipeline.encode_prompt(
        captions,
        False,
        device=pipeline.text_encoder.device,
        max_sequence_length=_STATES,
        complex_human_instruction=None if negative else _INSTRUCTION,
    )
    pipeline.tokenizer.padding_side = side  # upstream turns it; what is saved stays as it was
    return {"states": states, "mask": mask}


def _predict(model: Any, noised: Tensor, time: Tensor, condition: Condition) -> Tensor:
    output: Tensor = model(
        noised,
        encoder_hidden_states=condition["states"],
        encoder_attention_mask=condition["mask"],
        timestep=time * model.config.timestep_scale,
    ).sample
    return output


FAMILY = Family(
    pipeline=SanaPipeline,
    denoiser="transformer",
    models={
        "vae": (AutoencoderDC,),
        "text_encoder": (Gemma2Model,),
        "transformer": (SanaTransformer2DModel,),
    },
    tokenizers={"tokenizer": GemmaTokenizer},
    conditions=("states", "mask"),
    encode=_encode,
    predict=_predict,
    caption_lengths=lambda pipeline: (_STATES,),
    guidance=4.5,
    flow=True,
    autoencoder=Autoencoder(distribution=False),
    grid=even_grid_by_size,
    check=_check,
)
