"""Rounds of SPO tell a judge that takes timesteps how noisy the latents were that a picture comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from rewards.tiny_clip import save_transformers
from tiny_runs import Bench, losses
from training.test_online import config_of, record_of

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.rewards.brightness import Brightness
from mmalign.training.run import run
from mmalign.types import Message, Part


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("stepping"))


@dataclass(frozen=True)
class ByStep:
    """Brightness at high levels of noise, darkness at low ones; keeps what it was told."""

    seen: ClassVar[list[int]] = []

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        raise AssertionError("it takes timesteps, and rounds have them")

    def score_steps(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part], timesteps: Sequence[int]
    ) -> list[Mapping[str, float]]:
        ByStep.seen.extend(timesteps)
        found = Brightness().score_many(prompts, responses)
        return [
            {"score": one["score"] * (1 if step > 100 else -1)}
            for one, step in zip(found, timesteps, strict=True)
        ]


def test_a_round_hands_on_the_level_that_each_picture_was_predicted_from(bench: Bench) -> None:
    """Four steps of a thousand levels go 751, 501, 251, 1, 0; the first of them does not branch."""
    ByStep.seen.clear()
    judged: dict[str, Any] = {"judge": {"name": "test_step_judge:ByStep"}, "prompts": 4, "steps": 1}
    output = run(config_of(bench, "spo", "levels", steps=1, online=judged))
    two = [251] * 4 + [1] * 4 + [0] * 4  # two branches of two prompts, which are sampled together
    assert ByStep.seen == two * 2
    signs = [margin for one in record_of(output, 0)["samples"] for margin in one["labels"]["step_margins"]]
    assert len(signs) == 12 and min(signs) >= 0


def test_spo_learns_from_the_step_aware_model(bench: Bench, tmp_path: Path) -> None:
    plain = save_transformers(tmp_path / "clip")
    adapter = build_named(KINDS["judge"], {"name": "step_preference", "path": plain}, "judge", False)
    towers = adapter.towers(torch.device("cpu"), seed=1)
    with torch.no_grad():
        for parameter in towers.timed.time.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    towers.save(towers.timed, tmp_path / "judge")
    margins = []
    for name, path in (("step_preference", tmp_path / "judge"), ("pick_score", tmp_path / "judge")):
        judge = {"name": name, "path": str(path), "device": "cpu"}
        config = config_of(bench, "spo", f"by-{name}", steps=1, online={"judge": judge})
        output = run(config)
        assert losses(output)[0] == pytest.approx(0.693147, abs=1e-5)
        margins.append([one["labels"]["step_margins"] for one in record_of(output, 0)["samples"]])
    assert margins[0] != margins[1]  # the same towers, of which one is told the timesteps
