"""The head of a reward model: from the hidden state at a response's end to its scores, and its files.

Its weights are plain parameters, not linear layers: LoRA, which looks for layers, leaves them alone, and they
train as they are, in float32 whatever the model's type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmalign.adapters._loading import read_json, read_tensors
from mmalign.types import Batch, LogProbs, UserError, derive_seed

FORMAT = 1
WEIGHTS, SETTINGS = "head.safetensors", "head.json"
HeadType = Literal["linear", "mlp"]


@dataclass(frozen=True)
class Head:
    """Which head, and where its first weights come from."""

    type: HeadType = "linear"  # one linear layer, or behind a dense layer and tanh (mlp)
    init: Literal["load", "fresh"] = "load"  # fresh: small random weights, for a model that has no head yet
    path: str | None = None  # folder with head.safetensors, for `load`; null: the backbone's own folder
    seed: int = 0  # of fresh weights

    def __post_init__(self) -> None:
        if self.path is not None and self.init == "fresh":
            raise ValueError(f"path: only read with init load, got init fresh and path {self.path}")


class ScoreHead(nn.Module):
    """Scores [..., A] of hidden states [..., H], without a bias at the end: differences would not see it."""

    def __init__(self, width: int, num_aspects: int, kind: HeadType) -> None:
        super().__init__()
        self.kind: HeadType = kind
        self.weight = nn.Parameter(torch.zeros(num_aspects, width))
        if kind == "mlp":
            self.dense_weight = nn.Parameter(torch.zeros(width, width))
            self.dense_bias = nn.Parameter(torch.zeros(width))

    def forward(self, hidden: Tensor) -> Tensor:
        """Float32 scores, under autocast too."""
        with torch.autocast(hidden.device.type, enabled=False):
            hidden = hidden.float()
            if self.kind == "mlp":
                hidden = torch.tanh(F.linear(hidden, self.dense_weight.float(), self.dense_bias.float()))
            return F.linear(hidden, self.weight.float())

    @torch.no_grad()
    def fill(self, seed: int) -> None:
        """Normal weights of variance 1 / (H + 1), as in arXiv 2009.01325, so that first scores are small."""
        generator = torch.Generator().manual_seed(derive_seed(seed, 0, "", "reward head"))
        for name, parameter in self.named_parameters():
            if name != "dense_bias":
                drawn = torch.randn(parameter.shape, generator=generator) / (parameter.shape[1] + 1) ** 0.5
                parameter.copy_(drawn)


def has_head(folder: Path) -> bool:
    """True if the folder says that it holds a reward head."""
    return (folder / SETTINGS).is_file()


def save_head(
    head: ScoreHead,
    folder: Path,
    aspects: Sequence[str],
    backbone: Mapping[str, Any],
    critiques: bool = False,
) -> None:
    """head.safetensors (float32) and head.json, which also says how rows were made for the backbone, and
    whether the head reads critiques that the model writes."""
    from safetensors.torch import save_file

    state = {name: value.detach().float().cpu().contiguous() for name, value in head.state_dict().items()}
    save_file(dict(sorted(state.items())), folder / WEIGHTS, metadata={"format": "pt"})
    settings = {
        "format": FORMAT,
        "type": head.kind,
        "aspects": list(aspects),
        "hidden_size": head.weight.shape[1],
        "backbone": dict(backbone),
    }
    if critiques:
        settings["critiques"] = True
    text = json.dumps(settings, indent=2, sort_keys=True)
    (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")


def read_settings(folder: Path) -> dict[str, Any]:
    """What head.json says. Raises UserError if it is missing, broken or of another version."""
    file = folder / SETTINGS
    if not file.is_file():
        raise UserError(
            f"{folder}: holds no reward head ({SETTINGS} is missing); name the folder that has one as "
            "model.head.path, or set model.head.init=fresh to train a new one"
        )
    settings = read_json(file)
    if settings.get("format") != FORMAT:
        raise UserError(f"{file}: its format is {settings.get('format')!r}, this version reads {FORMAT}")
    named = settings.get("aspects")
    sound = isinstance(named, list) and named and all(isinstance(name, str) for name in named)
    if settings.get("type") not in ("linear", "mlp") or not sound or "hidden_size" not in settings:
        raise UserError(f"{file}: must hold type (linear or mlp), aspects (names) and hidden_size")
    if not isinstance(settings.get("backbone"), dict):
        raise UserError(f"{file}: must hold backbone, the settings of the model below the head")
    return settings


def load_head(folder: Path, head: ScoreHead, aspects: Sequence[str]) -> None:
    """Fill `head` from a folder. Raises UserError for a head of another type, width or other aspects."""
    settings = read_settings(folder)
    rules = (
        ("model.head.type", settings["type"], head.kind),
        ("model.aspects", settings["aspects"], list(aspects)),
        ("hidden size", settings["hidden_size"], head.weight.shape[1]),
    )
    for name, saved, ours in rules:
        if saved != ours:
            raise UserError(f"{folder}/{SETTINGS}: {name} is {saved} there, but {ours} here; they must agree")
    file = folder / WEIGHTS
    state, own = read_tensors(file), head.state_dict()
    for name in sorted(own.keys() | state.keys()):
        if name not in state or name not in own:
            raise UserError(f"{file}: weight {name} is {'missing' if name in own else 'unknown'}")
        if own[name].shape != state[name].shape:
            raise UserError(
                f"{file}: {name} has shape {list(state[name].shape)}, not {list(own[name].shape)}"
            )
        if not bool(torch.isfinite(state[name]).all()):
            raise UserError(f"{file}: {name} holds NaN or infinity")
    head.load_state_dict({name: value.float() for name, value in state.items()})


def scored(values: Tensor, batch: Batch) -> LogProbs:
    """Scores [N, A] of a batch's rows in the record that objectives on rewards read."""
    mask = torch.ones_like(values, dtype=torch.bool)
    return LogProbs(values, mask, "reward", "aspect", sample=batch.row_sample, slot=batch.row_slot)
