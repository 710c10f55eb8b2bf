"""The vision tower: how often it runs, what of it trains, and where gradients go."""

from pathlib import Path
from typing import Any

import pytest
import torch
from contract import Case
from tiny_vlm import build_vlm, mixed_pairs, picture, vlm_pair

from mmalign.adapters._vision_lm import VisionLM
from mmalign.adapters._vision_media import tower_layers
from mmalign.adapters._vision_parts import core_of
from mmalign.config import Lora
from mmalign.training import lora


class Count:
    """How often the tower's first layer really works, and whether it keeps a graph."""

    def __init__(self, adapter: VisionLM) -> None:
        self.calls = 0
        self.grad: list[bool] = []
        layer = tower_layers(core_of(adapter.policy))[0]
        within = next(m for m in layer.modules() if isinstance(m, torch.nn.Linear))
        within.register_forward_hook(self._count)

    def _count(self, module: Any, given: Any, out: Any) -> None:
        self.calls += 1
        self.grad.append(bool((out[0] if isinstance(out, tuple) else out).requires_grad))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_frozen_tower_runs_once_per_distinct_picture(
    vlm_folders: dict[str, Path], family: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all roles and sources of a step, without a graph; pictures go one by one here, to be counted."""
    own = build_vlm(vlm_folders[family])
    lora.inject(own.policy, Lora(rank=4), own.lora_targets, 0)
    if checkpointing:
        own.enable_checkpointing()
        own.policy.train()
    count = Count(own)
    a, b = picture(1), picture(2, (64, 32))
    samples = (vlm_pair("one", (a,)), vlm_pair("again", (a,), chosen="yes"), vlm_pair("other", (b,)))
    batch = Case(own, samples).batch()
    for _ in range(2):
        own.logprobs(own.policy, batch, {}, frozenset()).total().sum().backward()
        with lora.switched_off(own.policy), torch.no_grad():
            own.logprobs(own.policy, batch, {}, frozenset())
    assert count.calls == 2
    assert count.grad == [False, False]


def test_a_frozen_tower_below_a_training_projector_runs_once(
    vlm_folders: dict[str, Path], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = build_vlm(vlm_folders[family], trains=("language", "projector"))
    whole = build_vlm(vlm_folders[family], trains=("language", "projector", "vision"))
    samples = mixed_pairs()
    count = Count(own)
    batch = Case(own, samples).batch()
    runs = count.calls
    assert runs == len({u.digest for d in (batch.inputs["image.distinct"],) for u in d})
    scores = own.logprobs(own.policy, batch, {}, frozenset())
    with torch.no_grad():
        own.logprobs(own.policy, batch, {}, frozenset())
    plain = whole.logprobs(whole.policy, Case(whole, samples).batch(), {}, frozenset())
    assert float((scores.values - plain.values).detach().abs().max()) <= 1e-5
    scores.total().sum().backward()
    plain.total().sum().backward()
    theirs = dict(whole.policy.named_parameters())
    for name, parameter in own.policy.named_parameters():
        if name in own.parts["vision"]:
            assert parameter.grad is None, name
        elif theirs[name].grad is not None:
            assert torch.allclose(parameter.grad, theirs[name].grad, atol=1e-4, rtol=1e-4), name
    replay = count.calls - runs
    assert replay == 0, "the tower's layers ran again"


def test_a_tower_that_trains_runs_once_per_picture_and_source(vlm_folders: dict[str, Path]) -> None:
    own = build_vlm(vlm_folders["llava"], trains=("vision",))
    count = Count(own)
    batch = Case(own, (vlm_pair("one", (picture(1),)), vlm_pair("two", (picture(1),)))).batch()
    assert count.calls == 0
    own.logprobs(own.policy, batch, {}, frozenset()).total().sum().backward()
    assert count.calls == 1
    assert count.grad == [True]


@pytest.mark.parametrize("trains", [("language",), ("projector",), ("vision",), ("language", "vision")])
def test_what_is_named_trains_and_nothing_else(
    vlm_folders: dict[str, Path], family: str, trains: tuple[Any, ...]
) -> None:
    own = build_vlm(vlm_folders[family], trains=trains)
    a = picture(1, (60, 60))
    own.logprobs(
        own.policy, Case(own, (vlm_pair("x", (a,)),)).batch(), {}, frozenset()
    ).total().sum().backward()
    named = {name for part in trains for name in own.parts[part]}
    for name, parameter in own.policy.named_parameters():
        assert parameter.requires_grad <= (name in named), name
        if parameter.requires_grad and "newline" not in name:
            assert parameter.grad is not None, f"{name} trains but takes no gradient"


def test_a_batch_without_pictures_still_gives_every_weight_a_gradient(vlm_folders: dict[str, Path]) -> None:
    own = build_vlm(vlm_folders["llava"], trains=("projector", "vision"))
    own.logprobs(own.policy, Case(own, (vlm_pair("x"),)).batch(), {}, frozenset()).total().sum().backward()
    for name, parameter in own.policy.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert float(parameter.grad.abs().sum()) == 0.0


def test_lora_goes_where_the_scope_says(vlm_folders: dict[str, Path], family: str) -> None:
    for trains in (("language",), ("projector",), ("vision",)):
        own = build_vlm(vlm_folders[family], trains=trains)
        lora.inject(own.policy, Lora(rank=2), own.lora_targets, 0)
        sites = {
            n.partition(".lora_")[0] + ".weight" for n, p in own.policy.named_parameters() if "lora_" in n
        }
        assert sites
        assert sites <= set(own.parts[trains[0]])
        assert "lm_head.weight" not in sites
