"""Sampling text token by token, each row from its own random stream, whatever rows it is batched with."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor, nn

from mmalign.types import Part, UserError


@dataclass(frozen=True)
class Sampling:
    """How responses are generated."""

    max_new_tokens: int = 256  # tokens of a response, at most
    temperature: float = 1.0  # divides the logits; 0 is greedy
    top_p: float = 1.0  # draw from the likeliest tokens that together have this probability; 1: from all
    stop: tuple[str, ...] = ()  # the response ends before the first of these strings
    batch: int = 32  # prompts per forward

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens: must be 1 or more, got {self.max_new_tokens}")
        if self.temperature < 0:
            raise ValueError(f"temperature: must be 0 or more, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p: must lie in (0, 1], got {self.top_p}")
        if "" in self.stop:
            raise ValueError("stop: a stop string must not be empty")
        if self.batch < 1:
            raise ValueError(f"batch: must be 1 or more, got {self.batch}")


class Answers:
    """What adapters share that answer in words, by the `generation` of their config, a `Sampling`."""

    config: Any

    def answering(self, settings: Sampling) -> Self:
        """The same adapter over the same weights, answering by other settings."""
        twin = copy.copy(self)
        twin.config = replace(self.config, generation=settings)
        return twin


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; every module gets its own mode back."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def choose(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """One id per row of `logits` [B, V], the distribution inverted at `uniform` [B] in [0, 1) -> [B] long."""
    if temperature == 0:
        return logits.argmax(-1)
    probs = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        ordered, order = probs.sort(dim=-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        probs = probs.masked_fill(torch.zeros_like(probs).scatter(-1, order, before) >= top_p, 0.0)
    cumulative = probs.cumsum(-1)
    point = uniform.double().unsqueeze(-1) * cumulative[:, -1:]
    return torch.searchsorted(cumulative, point, right=True).squeeze(-1).clamp(max=logits.shape[-1] - 1)


def answer(text: str, settings: Sampling, tokens: int, room: int) -> Part:
    """A response up to its first stop string, given all of its text, and as many new tokens; it is whole
    unless they fill the room and no stop string ended it."""
    shown = text
    for end in settings.stop:
        shown = shown.split(end, 1)[0]
    return Part("text", shown, whole=shown != text or tokens < min(room, settings.max_new_tokens))


@torch.no_grad()
def sample_ids(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    settings: Sampling,
    end_ids: Sequence[int],
    limit: int | None,
    stopped: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """New ids for every prompt, without the id that ended them. Left-padded, with a key-value cache.

    A row ends at any of `end_ids`, when `stopped(its new ids)` says so, after `max_new_tokens`, or when it
    is `limit` tokens long. Row i draws from a generator seeded with seeds[i] and from nothing else.
    Raises UserError for a model without a key-value cache.
    """
    from transformers import DynamicCache

    if "past_key_values" not in inspect.signature(model.forward).parameters:
        raise UserError(f"{type(model).__name__} keeps no key-value cache and cannot generate here")
    device = next(model.parameters()).device
    rows, width = len(prompts), max(len(p) for p in prompts)
    ids = torch.zeros(rows, width, dtype=torch.long)
    mask = torch.zeros(rows, width, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    cache = DynamicCache(config=model.config)
    new: list[list[int]] = [[] for _ in prompts]
    room = [settings.max_new_tokens if limit is None else limit - len(p) for p in prompts]
    alive = [space > 0 for space in room]
    for _ in range(settings.max_new_tokens):
        if not any(alive):
            break
        output = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        uniform = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators])
        logits = output.logits[:, -1].float()
        chosen = choose(logits, uniform.to(device), settings.temperature, settings.top_p)
        for row, token in enumerate(chosen.tolist()):
            if not alive[row]:
                continue
            if token in end_ids:
                alive[row] = False
                continue
            new[row].append(token)
            full = len(new[row]) >= room[row]
            alive[row] = not (full or (stopped is not None and stopped(new[row])))
        ids = chosen.unsqueeze(-1)
        mask = torch.cat([mask, mask.new_ones(rows, 1)], dim=-1)
        positions = positions[:, -1:] + 1
    return new
