"""The frozen source that log-ratios are taken against: which one, how it scores, and its cache."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from mmalign.adapters import _users as users
from mmalign.config import RunConfig
from mmalign.data._cache import TensorCache
from mmalign.training import lora
from mmalign.training.encoding import row_digest
from mmalign.training.optim import evaluating
from mmalign.training.scorer import Switch
from mmalign.types import Adapter, LogProbs, Noising, Prepared, UserError

DERIVED = ("lora_off", "initial_adapter", "copy", "ema")  # start equal to the policy


class MovingReference:
    """A reference that follows the policy: what trains, averaged over steps (decay 0: copied now and then).

    reference = decay * reference + (1 - decay) * policy after every `every`-th step, in float32.
    """

    def __init__(self, policy: nn.Module, decay: float, every: int) -> None:
        """Starts as the policy is now; call it before any weight has moved."""
        self._policy, self._decay, self._every = policy, decay, every
        self.weights = {n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}

    def switch(self) -> AbstractContextManager[nn.Module]:
        """The policy with the averaged weights in it, in eval mode."""
        return _quietly(lora.swapped(self._policy, self.weights), self._policy)

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take the policy's weights after `step` steps into account."""
        if step % self._every:
            return
        own = dict(self._policy.named_parameters())
        for name, average in self.weights.items():
            average.lerp_(own[name].detach(), 1 - self._decay)

    @torch.no_grad()
    def restore(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from saved averages. Raises ValueError if they are not this reference's."""
        if weights.keys() != self.weights.keys():
            raise ValueError("the checkpoint holds no moving reference for these weights")
        for name, average in self.weights.items():
            average.copy_(weights[name])


def frozen_dtype(config: RunConfig) -> torch.dtype:
    """The type of weights that never train: half precision under LoRA where the run asks for it."""
    half = config.lora is not None and config.train.precision == "bf16"
    return torch.bfloat16 if half else torch.float32


def make_switch(name: str, adapter: Adapter, config: RunConfig, dtype: torch.dtype) -> Switch:
    """A context manager factory that yields the module to score with. Call it before any weight has moved."""
    policy = adapter.policy
    if name == "lora_off":
        adapted = lora.layers(policy)
        return lambda: _quietly(lora.switched_off(policy, adapted), policy)
    if name == "initial_adapter":
        frozen = {n: p.detach().clone() for n, p in policy.named_parameters() if p.requires_grad}
        return lambda: _quietly(lora.swapped(policy, frozen), policy)
    if name == "copy":
        return _frozen(copy.deepcopy(policy))
    assert name == "path", name
    try:
        other = model_at(config, str(config.reference.path)).build(adapter.device, dtype)
    except UserError as error:  # an adapter knows its path by the section it is built from
        raise UserError(re.sub(r"^model\.path\b", "reference.path", str(error))) from error
    gap = adapter.other_noise(other) if isinstance(adapter, Noising) else None
    if gap is not None:
        raise UserError(
            f"reference.path {config.reference.path}: {gap}; both are scored at the policy's noise levels, "
            "so give a reference that was trained with them"
        )
    if other.fingerprint() != adapter.fingerprint():
        raise UserError(
            f"reference.path {config.reference.path}: its tokenizer or frozen encoders differ from the "
            "policy's; both models must read a row the same way"
        )
    return _frozen(other.policy)


def model_at(config: RunConfig, path: str, keep_dtype: bool = True) -> Any:
    """The model section pointed at another folder; what belongs to the old place does not come along."""
    if config.model.kind == "reward":
        return config.model.at(path)
    reset: dict[str, Any] = {"path": path}
    names = {f.name for f in dataclasses.fields(config.model)}
    reset |= {name: None for name in ("revision", "variant") if name in names}
    if not keep_dtype and "dtype" in names:
        reset["dtype"] = None
    return dataclasses.replace(config.model, **reset)


def _frozen(module: nn.Module) -> Switch:
    module.requires_grad_(False).eval()
    users.turn_off(module)

    @contextmanager
    def switch() -> Iterator[nn.Module]:
        yield module

    return switch


@contextmanager
def _quietly(inner: AbstractContextManager[nn.Module], policy: nn.Module) -> Iterator[nn.Module]:
    """The inner block with the policy in eval mode and knowing no users: a reference never sees dropout."""
    with evaluating(policy), users.switched_off(policy), inner as module:
        yield module


def weights_hash(module: nn.Module, without_lora: bool = True) -> str:
    """Hash of a model's weights, adapter weights left out unless told otherwise."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        if without_lora and "lora_" in name:
            continue
        name = name.replace(".base_layer.", ".")
        digest.update(f"{name}:{value.dtype}:{tuple(value.shape)}".encode())
        digest.update(value.detach().contiguous().reshape(-1).cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:24]


class ReferenceCache:
    """Reference scores on disk: an entry per row content, noise draw and fingerprint of the model."""

    def __init__(self, folder: str | None, fingerprint: str) -> None:
        self._cache = None if folder is None else TensorCache(Path(folder))
        self._memory: dict[str, dict[str, Tensor]] = {}
        self._fingerprint = fingerprint

    def _key(self, sample: Prepared, place: int, seed: int | None) -> str:
        return f"{self._fingerprint}-{row_digest(sample.rows[place])}-{'exact' if seed is None else seed}"

    def holds(self, sample: Prepared, roles: Sequence[str], seed: int | None) -> bool:
        """True if every row of the roles has been scored with this draw."""
        places = [i for i, row in enumerate(sample.rows) if row.role in roles]
        return all(self._load(self._key(sample, i, seed)) is not None for i in places)

    def store(self, sample: Prepared, role: str, slot: int, seed: int | None, scored: LogProbs) -> None:
        """Keep the one row of `scored`."""
        (place,) = [i for i, row in enumerate(sample.rows) if row.role == role and row.slot == slot]
        kept = scored.mask[0]
        entry = {"values": scored.values[0][kept].cpu()}
        if scored.error is not None:
            entry["error"] = scored.error[0][kept].cpu()
        key = self._key(sample, place, seed)
        if self._cache is None:
            self._memory[key] = entry
        else:
            self._cache.put(key, entry)

    def load(
        self, samples: Sequence[Prepared], role: str, seeds: Sequence[int | None], like: LogProbs
    ) -> LogProbs:
        """Scores of one role in the row order of `like`, the policy's scores of the same rows."""
        entries = []
        for sample_index, slot in zip(like.sample.tolist(), like.slot.tolist(), strict=True):
            sample = samples[sample_index]
            (place,) = [i for i, row in enumerate(sample.rows) if row.role == role and row.slot == slot]
            entry = self._load(self._key(sample, place, seeds[sample_index]))
            if entry is None:
                raise UserError(
                    f"reference.name=cached: no cached score for sample {sample.sample_id}, {role}"
                )
            entries.append(entry)
        device = like.values.device
        values = pad_sequence([e["values"] for e in entries], batch_first=True).to(device)
        counts = [len(e["values"]) for e in entries]
        if like.ids is not None and (like.ids >= 0).sum(-1).tolist() != counts:  # of a view it does not score
            raise UserError(
                f"reference.name=cached: answers of {role} are cut to another length than the policy's: "
                "raise model.max_length, or use a live reference"
            )
        lengths = torch.tensor(counts, device=device)
        mask = torch.arange(values.shape[1], device=device)[None] < lengths[:, None]
        error = None
        if "error" in entries[0]:
            error = pad_sequence([e["error"] for e in entries], batch_first=True).to(device)
        return dataclasses.replace(
            like, values=values, mask=mask, error=error, weights=None, distribution=None
        )

    def _load(self, key: str) -> dict[str, Tensor] | None:
        return self._memory.get(key) if self._cache is None else self._cache.get(key)
