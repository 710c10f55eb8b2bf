"""Scoring on a device: whatever meets a tensor there lies there, the copies to it aside.

The meta device stands in for an accelerator: it computes nothing, but like one it is not the CPU.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_subject import Subject
from tiny_sd import pairs
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import LogProbs, Prepared

CPU, META = torch.device("cpu"), torch.device("meta")
ROLES = ("chosen", "rejected")


class OneDevice(TorchDispatchMode):
    """Every operation but a copy takes tensors of one device; single numbers on the CPU go anywhere."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        found = {one.device.type for one in tensors if one.ndim or one.device != CPU}
        assert len(found) < 2 or "copy" in str(func), f"{func} takes tensors of {sorted(found)}"
        return func(*args, **(kwargs or {}))


def moved(adapter: Denoiser) -> Denoiser:
    """The adapter with all that scores on the meta device; encoders stay, as they have done their work."""
    adapter.device = META
    adapter.policy.to(META)
    tables = {name: getattr(adapter._schedule, name).to(META) for name in ("signal", "noise")}
    adapter._schedule = replace(adapter._schedule, **tables)
    adapter._empty = {name: value.to(META) for name, value in adapter._empty.items()}
    latents = adapter._latents
    latents._offset, latents._factor = latents._offset.to(META), latents._factor.to(META)
    return adapter


def check(adapter: Denoiser, encoded: list[Prepared]) -> None:
    moved(adapter)
    with OneDevice():
        batch = adapter.collate(encoded, ROLES)
        draw = adapter.draw(batch, range(len(encoded)))
        scored = adapter.logprobs(adapter.policy, batch, draw, frozenset({"prediction"}))
        sides = [scored.take(batch.rows_of(role)) for role in ROLES]
        margin = sides[0].ratio(sides[1])
    assert margin.device == scored.values.device == META and margin.shape == (len(encoded),)


@torch.no_grad()
@pytest.mark.parametrize("name", tiny.FAMILIES)
def test_scoring_stays_on_the_device(name: str, tmp_path: Path) -> None:
    subject = Subject(name, tiny.FAMILIES[name](tmp_path / name, 0), lambda *_: torch.zeros(()))
    adapter = subject.adapter()
    case = subject.case(adapter)
    check(adapter, adapter.encode([adapter.prepare(sample, ROLES) for sample in case.samples]))


@torch.no_grad()
def test_so_it_does_with_everything_that_is_drawn(tmp_path: Path) -> None:
    folder = tiny.FAMILIES["sd2"](tmp_path / "sd2", 0)
    drawn: dict[str, Any] = {"flip": True, "num_draws": 2, "weighting": "min_snr", "error_space": "sample"}
    adapter = Diffusion(str(folder), resolution=32, caption_dropout=0.5, **drawn).build(CPU)
    check(adapter, adapter.encode([adapter.prepare(sample, ROLES) for sample in pairs(2)]))


def test_a_selection_of_scores_on_a_device() -> None:
    index = torch.arange(3)
    values = torch.zeros(3, 2, device=META)
    scores = LogProbs(values, values > 0, "surrogate", "draw", index, index, error=values)
    with OneDevice():
        taken = scores.take(torch.tensor([2, 0]))
    assert taken.sample.tolist() == [2, 0] and taken.values.device == META and taken.values.shape == (2, 2)
