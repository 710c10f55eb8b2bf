"""A CLIP model whose picture tower is told how noisy the picture was, and its files.

Letters: B pictures or texts, H width of the picture tower, E width of an embedding, L tokens of a text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmalign.rewards._loading import read_tensors
from mmalign.types import UserError

FILE = "time_conditioning.safetensors"
"""What a folder of such a model has beside the files of its CLIP model."""
_WAVES = 256  # numbers that a timestep is written as before it is embedded
_SLOWEST = 10_000.0  # longest of their periods, over 2 pi
_SPREAD = 0.02  # deviation of a fresh embedding's weights


class TimeConditioning(nn.Module):
    """From timesteps to shifts, scales and gates of a picture tower (arXiv 2406.04314; adaLN-Zero of arXiv
    2212.09748, section 3.2): six vectors for each block, two for what is read in the end."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.embedder = nn.Sequential(nn.Linear(_WAVES, width), nn.SiLU(), nn.Linear(width, width))
        self.blocks = nn.ModuleList(nn.Linear(width, 6 * width) for _ in range(blocks))
        self.final = nn.Linear(width, 2 * width)

    @torch.no_grad()
    def fill(self, seed: int) -> None:
        """A fresh start under which no timestep changes the tower: scales and shifts 0, gates 1."""
        stream = torch.Generator().manual_seed(seed)
        for parameter in self.parameters():
            parameter.zero_()
        for layer in (self.embedder[0], self.embedder[2]):
            weight = layer.get_parameter("weight")
            weight.copy_(torch.randn(weight.shape, generator=stream) * _SPREAD)
        for block in self.blocks:
            gates = block.get_parameter("bias").view(6, -1)
            gates[2], gates[5] = 1.0, 1.0

    def forward(self, timesteps: Tensor) -> tuple[list[tuple[Tensor, ...]], tuple[Tensor, ...]]:
        """For every block the shift, scale and gate of attention, then those of the MLP; then the shift and
        scale of the pooled state; all [B, 1, H] and [B, H]. `timesteps` [B]: levels of noise, 0 is clean."""
        told = F.silu(self.embedder(waves(timesteps)))
        blocks = [tuple(block(told)[:, None].chunk(6, -1)) for block in self.blocks]
        return blocks, tuple(self.final(told).chunk(2, -1))


class TimedClip(nn.Module):
    """transformers' CLIPModel with a conditioning of its picture tower."""

    def __init__(self, clip: Any) -> None:
        super().__init__()
        vision = clip.config.vision_config
        self.clip = clip
        self.time = TimeConditioning(vision.hidden_size, vision.num_hidden_layers)
        self.checkpointing = False  # compute the blocks again in backward

    @property
    def logit_scale(self) -> Tensor:
        """Logarithm of the factor between cosines and scores, []."""
        scale: Tensor = self.clip.logit_scale
        return scale

    def pictures(self, inputs: Tensor, timesteps: Tensor) -> Tensor:
        """Projected features [B, E] of model inputs [B, 3, h, w] that were denoised from `timesteps` [B]."""
        tower = self.clip.vision_model
        blocks, (shift, scale) = self.time(timesteps)
        states = tower.pre_layrnorm(tower.embeddings(inputs))
        for layer, told in zip(tower.encoder.layers, blocks, strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                states = checkpoint(_block, layer, states, told, use_reentrant=False)
            else:
                states = _block(layer, states, told)
        pooled = tower.post_layernorm(states[:, 0])
        features: Tensor = self.clip.visual_projection(pooled * (1 + scale) + shift)
        return features

    def by_upstream(self, inputs: Tensor, timesteps: Tensor) -> Tensor:
        """What `pictures` gives, by upstream's own forward with the conditioning hooked onto its modules."""
        tower = self.clip.vision_model
        blocks, (shift, scale) = self.time(timesteps)
        hooks = [tower.post_layernorm.register_forward_hook(_Change(1 + scale, shift))]
        for layer, told in zip(tower.encoder.layers, blocks, strict=True):
            parts = ((layer.layer_norm1, layer.self_attn), (layer.layer_norm2, layer.mlp))
            for (norm, branch), (shift, scale, gate) in zip(parts, (told[:3], told[3:]), strict=True):
                hooks.append(norm.register_forward_hook(_Change(1 + scale, shift)))
                hooks.append(branch.register_forward_hook(_Change(gate)))
        try:
            found: Tensor = self.clip.get_image_features(pixel_values=inputs).pooler_output
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def texts(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Projected features [B, E] of tokens `ids` [B, L], of which `mask` [B, L] says which are there."""
        features: Tensor = self.clip.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        return features

    def forward(self, inputs: Tensor, timesteps: Tensor, ids: Tensor, mask: Tensor, rows: Tensor) -> Tensor:
        """Scores [B] in float32, exp(logit scale) times cosine: of every picture and the text `rows` [B] of
        the U texts `ids` [U, L]."""
        seen = F.normalize(self.pictures(inputs, timesteps).float(), dim=-1)
        said = F.normalize(self.texts(ids, mask).float(), dim=-1)
        return self.logit_scale.float().exp() * (seen * said[rows]).sum(-1)

    def parts(self) -> dict[str, list[str]]:
        """Names of the weights by part."""
        found: dict[str, list[str]] = {"pictures": [], "text": [], "timesteps": []}
        for name, _ in self.named_parameters():
            part = "timesteps" if name.startswith("time.") else "text" if ".text_" in name else "pictures"
            found[part].append(name)
        return found

    def save(self, folder: Path) -> None:
        """Upstream's files of the CLIP model, and those of the conditioning beside them."""
        from safetensors.torch import save_file

        self.clip.save_pretrained(folder)
        state = self.time.state_dict()
        save_file({name: value.contiguous() for name, value in state.items()}, folder / FILE)

    def load_time(self, folder: Path, where: str) -> None:
        """Fill the conditioning from a folder. Raises UserError, starting with `where`."""
        _fill(self.time, read_tensors(folder / FILE, where), f"{where}: {folder / FILE}")

    def load_release(self, file: Path, where: str) -> None:
        """Fill CLIP model and conditioning from a checkpoint of the authors' training code. Raises UserError,
        starting with `where`, if it does not fit."""
        found, named = read_tensors(file, where), f"{where}: {file}"
        if strange := sorted(name for name in found if not name.startswith("model.")):
            raise UserError(f"{named}: no checkpoint of the authors' code: has a tensor {strange[0]}")
        state = {name.removeprefix("model."): value for name, value in found.items()}
        state = {name: value for name, value in state.items() if not name.endswith(".position_ids")}
        names = {_released(name): name for name in self.time.state_dict()}
        time = {own: state.pop(theirs) for theirs, own in names.items() if theirs in state}
        _fill(self.time, time, named)
        _fill(self.clip, state, named)


@dataclass(frozen=True)
class _Change:
    """A hook that scales and shifts what a module gives; of several things the first."""

    scale: Tensor
    shift: Tensor | float = 0.0

    def __call__(self, module: nn.Module, given: Any, found: Any) -> Any:
        if isinstance(found, tuple):
            return (found[0] * self.scale + self.shift, *found[1:])
        return found * self.scale + self.shift


def waves(timesteps: Tensor) -> Tensor:
    """Cosines and then sines of timesteps [B] at periods from 2 pi to 2 pi 10,000, float32 [B, 256]."""
    half = _WAVES // 2
    places = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    angles = timesteps.float()[:, None] * torch.exp(-math.log(_SLOWEST) * places / half)
    return torch.cat([angles.cos(), angles.sin()], -1)


def _block(layer: Any, states: Tensor, told: tuple[Tensor, ...]) -> Tensor:
    """One block of upstream's tower with its normed states scaled and shifted, and its outputs gated."""
    shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = told
    normed = layer.layer_norm1(states) * (1 + scale) + shift
    attended, _ = layer.self_attn(hidden_states=normed, attention_mask=None)
    states = states + attended * gate
    normed = layer.layer_norm2(states) * (1 + mlp_scale) + mlp_shift
    done: Tensor = states + layer.mlp(normed) * mlp_gate
    return done


def _released(name: str) -> str:
    """What the authors' training code calls a tensor of the conditioning."""
    kind, _, rest = name.partition(".")
    if kind == "embedder":
        return f"t_embedder.mlp.{rest}"
    if kind == "final":
        return f"vision_model.adaLN_modulation.1.{rest}"
    place, _, rest = rest.partition(".")
    return f"vision_model.encoder.layers.{place}.adaLN_modulation.1.{rest}"


def _fill(module: nn.Module, found: Mapping[str, Tensor], where: str) -> None:
    """Load exactly these tensors. Raises UserError for one that is missing, unknown or of another shape."""
    wanted = module.state_dict()
    for word, names in (("lacks", wanted.keys() - found.keys()), ("has", found.keys() - wanted.keys())):
        if names:
            raise UserError(f"{where}: {word} the tensor {sorted(names)[0]}; is it of another model?")
    for name, value in wanted.items():
        if value.shape != found[name].shape:
            raise UserError(
                f"{where}: {name} has shape {list(found[name].shape)}, the model's is {list(value.shape)}"
            )
    module.load_state_dict({name: value.float() for name, value in found.items()})
