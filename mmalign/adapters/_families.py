"""The kinds of Stable Diffusion pipelines, as data: components, text towers and what their UNet is told.

Adding a kind means adding a record here; nothing else asks which kind it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import CLIPTextModel, CLIPTextModelWithProjection

from mmalign.adapters._ddim import Condition


@dataclass(frozen=True)
class Tower:
    """One text encoder with its tokenizer, and which of its states [L, width] the UNet attends to."""

    encoder: str  # component name
    tokenizer: str  # component name
    model: type[Any]
    layer: int | None  # index into all hidden states; None: the last one after its final norm
    pooled: bool = False  # its projected vector of the whole caption is a condition too


@dataclass(frozen=True)
class Family:
    """What sets one kind of pipeline apart from the others."""

    pipeline: type[Any]
    towers: tuple[Tower, ...]  # their states are joined along the width, in this order
    addition: str | None  # `addition_embed_type` of the UNet
    sized: bool  # the UNet is told each picture's size and crop: time ids (arXiv 2307.01952, section 2.2)
    condition: tuple[str, ...]  # names of the tensors of a Condition
    arguments: Callable[[Condition, torch.dtype], dict[str, Any]]  # of the UNet, beside latents and timestep
    settings: Mapping[str, Any]  # constructor settings of the pipeline
    zeros_flag: str | None = None  # entry of model_index.json: the empty caption is all zeros; true if absent

    @property
    def encoder_names(self) -> tuple[str, ...]:
        """Component names of the text encoders."""
        return tuple(tower.encoder for tower in self.towers)

    @property
    def tokenizer_names(self) -> tuple[str, ...]:
        """Component names of their tokenizers."""
        return tuple(tower.tokenizer for tower in self.towers)


def _attended(condition: Condition, dtype: torch.dtype) -> dict[str, Any]:
    return {"encoder_hidden_states": condition["states"].to(dtype)}


def _attended_and_added(condition: Condition, dtype: torch.dtype) -> dict[str, Any]:
    # sizes stay in float32: half precision has no 1023
    added = {"text_embeds": condition["pooled"].to(dtype), "time_ids": condition["time_ids"]}
    return {**_attended(condition, dtype), "added_cond_kwargs": added}


STABLE_DIFFUSION = Family(
    pipeline=StableDiffusionPipeline,
    towers=(Tower("text_encoder", "tokenizer", CLIPTextModel, layer=None),),
    addition=None,
    sized=False,
    condition=("states",),
    arguments=_attended,
    settings=MappingProxyType(
        {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    ),
)

STABLE_DIFFUSION_XL = Family(
    pipeline=StableDiffusionXLPipeline,
    towers=(
        Tower("text_encoder", "tokenizer", CLIPTextModel, layer=-2),
        Tower("text_encoder_2", "tokenizer_2", CLIPTextModelWithProjection, layer=-2, pooled=True),
    ),
    addition="text_time",
    sized=True,
    condition=("states", "pooled", "time_ids"),
    arguments=_attended_and_added,
    settings=MappingProxyType({"add_watermarker": False}),
    zeros_flag="force_zeros_for_empty_prompt",
)

FAMILIES = {family.pipeline.__name__: family for family in (STABLE_DIFFUSION, STABLE_DIFFUSION_XL)}
