"""SDXL Turbo in the diffusion adapter: the XL family at four noise levels, published with a noisy sampler."""

from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_contract import every_check
from adapters.family_subject import Subject, drawn
from torch import Tensor

from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters._noise import TimestepRange
from mmalign.types import UserError

LEVELS = (249, 499, 749, 999)


@torch.no_grad()
def predict(pipeline: Any, noised: Tensor, time: Tensor, caption: str, told: Tensor | None) -> Tensor:
    """Layers before the last of both towers side by side; the second tower's pooled caption; sizes."""
    states, pooled = [], None
    for name in ("", "_2"):
        tokenizer, tower = pipeline.components[f"tokenizer{name}"], pipeline.components[f"text_encoder{name}"]
        ids = tokenizer(caption, padding="max_length", max_length=77, return_tensors="pt").input_ids
        output = tower(ids, output_hidden_states=True)
        states.append(output.hidden_states[-2])
        pooled = output[0]
    added = {"text_embeds": pooled, "time_ids": told}
    return pipeline.unet(noised, time, torch.cat(states, -1), added_cond_kwargs=added).sample


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return Subject(
        "sdxl_turbo",
        tiny.FAMILIES["sdxl_turbo"](tmp_path_factory.mktemp("turbo") / "turbo", 0),
        predict,
        settings={"timesteps": TimestepRange(levels=LEVELS)},
    )


@every_check
def test_contract(subject: Subject, check: Any, tmp_path: Path) -> None:
    check(subject, tmp_path)


def test_only_its_own_levels_are_drawn(subject: Subject) -> None:
    adapter = subject.adapter(num_draws=60)
    found = set(drawn(adapter, subject.case(adapter).batch())["timestep"].flatten().tolist())
    assert found == set(LEVELS)
    with pytest.raises(UserError, match=r"model\.timesteps\.levels: must be below 1000, got 1000"):
        subject.adapter(timesteps=TimestepRange(levels=(999, 1000)))


def test_it_samples_at_the_levels_it_was_trained_on(subject: Subject) -> None:
    """Trailing steps: 999, 749, 499, 249 for four."""
    adapter = subject.adapter(generation=Generation(steps=4, guidance=1.0))
    with tiny.recorded(adapter.policy) as calls:
        adapter.sample_pixels(adapter.policy, [subject.pairs()[0].examples["chosen"][0].prompt], [1])
    assert [int(call.inputs["timestep"].flatten()[0]) for call in calls] == sorted(LEVELS, reverse=True)


@torch.no_grad()
def test_levels_that_end_in_pure_noise(subject: Subject) -> None:
    """The last level keeps no signal; errors are finite, and so are samples, at the levels as saved."""
    adapter = subject.adapter(zero_terminal_snr=True, generation=Generation(steps=4, guidance=1.0))
    assert float(adapter._schedule.signal[999]) == pytest.approx(0.0, abs=1e-6)
    batch, scores = subject.case(adapter).score()
    assert bool(torch.isfinite(scores.values).all())
    pixels = adapter.sample_pixels(adapter.policy, [subject.pairs()[0].examples["chosen"][0].prompt], [1])
    assert bool(torch.isfinite(pixels).all()) and float(pixels.std()) > 0.01
