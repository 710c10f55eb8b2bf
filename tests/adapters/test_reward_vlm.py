"""A reward head on models that look: the picture counts, padding and batch do not; it trains and reloads."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from contract import (
    Case,
    check_batching_does_not_matter,
    check_gradients_reach_the_policy_only,
    check_reload,
    check_shapes,
)
from tiny_vlm import FAMILIES, looking, mixed_pairs, picture, save_vlm
from transformers import AutoModelForImageTextToText

from mmalign.adapters._reward import RewardAdapter
from mmalign.adapters._score_head import Head
from mmalign.adapters.reward_head import RewardHead
from mmalign.config import Lora
from mmalign.training import lora
from mmalign.types import Example, Part, PreferenceSample

CPU = torch.device("cpu")


@pytest.fixture(scope="module", params=FAMILIES)
def adapter(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> RewardAdapter:
    folder = save_vlm(request.param, tmp_path_factory.mktemp(request.param))
    section = {"adapter": "vlm", "path": str(folder)}
    return RewardHead(section, Head(init="fresh")).build(CPU)


def one(name: str, number: int, text: str) -> PreferenceSample:
    """The same question about picture `number`, with an answer."""
    return PreferenceSample(name, {"chosen": (Example(looking(picture(number)), (Part("text", text),)),)})


def scores(adapter: RewardAdapter, samples: Sequence[PreferenceSample]) -> list[float]:
    with torch.no_grad():
        return Case(adapter, tuple(samples), ("chosen",)).score()[1].total().tolist()


def test_the_contract(adapter: RewardAdapter) -> None:
    case = Case(adapter, mixed_pairs())
    check_shapes(case)
    check_batching_does_not_matter(case, 2e-6)
    check_gradients_reach_the_policy_only(case)
    batch = case.batch()
    assert adapter.self_check(adapter.policy, batch, {}) < 1e-4


def test_picture_and_answer_both_count(adapter: RewardAdapter) -> None:
    first, other_picture, other_answer = scores(
        adapter, [one("a", 1, "a fox"), one("b", 2, "a fox"), one("c", 1, "a box")]
    )
    assert abs(first - other_picture) > 1e-4 and abs(first - other_answer) > 1e-4


def test_saved_and_loaded_again(adapter: RewardAdapter, tmp_path: Path) -> None:
    again = adapter.config.at(str(tmp_path / "one"))
    check_reload(Case(adapter, mixed_pairs()), tmp_path, None, lambda folder: again.build(CPU).policy)
    _, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "one", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    opened = RewardHead.open(tmp_path / "one", CPU)
    samples = [one("a", 1, "a fox"), one("b", 2, "a fox")]
    assert scores(opened, samples) == pytest.approx(scores(adapter, samples), abs=1e-5)


def test_lora_and_head_train_and_come_back(tmp_path: Path) -> None:
    folder = save_vlm("llava", tmp_path / "m")
    adapter = RewardHead({"adapter": "vlm", "path": str(folder)}, Head(init="fresh")).build(CPU)
    lora.inject(adapter.policy, Lora(rank=4), adapter.lora_targets, 0)
    trains = {name for name, p in adapter.policy.named_parameters() if p.requires_grad}
    assert {name for name in trains if "lora_" not in name} == {"score.weight"}
    optimizer = torch.optim.AdamW([p for p in adapter.policy.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        values = Case(adapter, mixed_pairs()).score()[1].total()
        (values * torch.arange(len(values))).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    adapter.save(adapter.policy, tmp_path / "final", lora.NAME)
    samples = [one("a", 1, "a fox"), one("b", 2, "a fox")]
    opened = RewardHead.open(tmp_path / "final", CPU)
    assert scores(opened, samples) == pytest.approx(scores(adapter, samples), rel=1e-4, abs=1e-4)
