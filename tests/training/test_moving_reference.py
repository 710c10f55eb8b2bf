"""A reference that follows the policy: its average, what a run scores against, and exact resuming."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_runs import Bench, losses, same_files
from torch import nn

from mmalign.config import Reference, RunConfig
from mmalign.training import run as running
from mmalign.training.reference import MovingReference
from mmalign.training.run import run
from mmalign.training.step import Engine, Micro, StepResult
from mmalign.types import State, UserError

LORA = {"rank": 4, "targets": ["to_q", "to_v"]}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("moving"))
    torch.set_num_threads(threads)


def scalar(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    layer.weight.data.fill_(value)
    return layer


def test_the_average_in_numbers() -> None:
    policy = scalar(1.0)
    moving = MovingReference(policy, decay=0.9, every=2)
    policy.weight.data.fill_(2.0)
    moving.follow(1)
    assert float(moving.weights["weight"]) == 1.0
    moving.follow(2)
    assert float(moving.weights["weight"]) == pytest.approx(0.9 * 1 + 0.1 * 2)
    moving.follow(4)
    assert float(moving.weights["weight"]) == pytest.approx(0.9 * 1.1 + 0.1 * 2)
    with moving.switch() as inside:
        assert float(inside(torch.ones(1, 1)).detach()) == pytest.approx(1.19)
    assert float(policy.weight) == 2.0


def test_frozen_weights_take_no_part() -> None:
    policy = nn.Sequential(scalar(1.0), scalar(2.0))
    policy[0].requires_grad_(False)
    assert list(MovingReference(policy, 0.5, 1).weights) == ["1.weight"]


@pytest.mark.parametrize("lora", [None, LORA])
def test_a_copy_after_every_step_scores_every_step_like_the_first(bench: Bench, lora: Any) -> None:
    sections: dict[str, Any] = {"lora": lora, "train": {"lr": 0.05}}
    moving = {"name": "ema", "decay": 0.0}
    folder = run(bench.config("image", f"copy-{lora is None}", reference=moving, **sections))
    assert losses(folder) == pytest.approx([math.log(2)] * 4, abs=1e-6)
    still = run(bench.config("image", f"still-{lora is None}", **sections))
    assert abs(losses(still)[-1] - math.log(2)) > 1e-4


def test_a_refused_step_on_the_boundary_skips_no_copy(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second step of two is refused, and the third still scores against the weights of the first."""
    original, gaps = running.compute_gradients, list[float]()

    def second_is_broken(engine: Engine, micros: Sequence[Micro], state: State, step: int) -> StepResult:
        assert engine.moving is not None
        own = dict(engine.adapter.policy.named_parameters())
        kept = engine.moving.weights
        gaps.append(max(float((kept[name] - own[name].detach()).abs().max()) for name in kept))
        result = original(engine, micros, state, step)
        return replace(result, loss=result.loss * math.nan) if step == 1 else result

    monkeypatch.setattr(running, "compute_gradients", second_is_broken)
    moving = {"name": "ema", "decay": 0.0, "every": 2}
    run(bench.config("image", "refused", reference=moving, lora=LORA, train={"steps": 3}))
    assert gaps[0] == 0 and gaps[1] > 0 and gaps[2] == 0


@pytest.mark.parametrize("lora", [None, LORA])
def test_n_plus_m_steps_equal_n_stop_m_bit_for_bit(bench: Bench, lora: Any) -> None:
    def part(steps: int, output: str) -> RunConfig:
        return bench.config(
            "image",
            f"{output}-{lora is None}",
            reference={"name": "ema", "decay": 0.8, "every": 2},
            lora=lora,
            train={"steps": steps},
        )

    straight = run(part(5, "straight"))
    run(part(3, "resumed"))
    resumed = run(part(5, "resumed"))
    same_files(straight / "final", resumed / "final")
    step = "checkpoints/step-000005"
    for file in ("model.safetensors", "reference.safetensors", "optimizer.safetensors"):
        assert (straight / step / file).read_bytes() == (resumed / step / file).read_bytes(), file
    assert losses(straight) == losses(resumed)


def test_a_checkpoint_of_other_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="no moving reference for these weights"):
        MovingReference(scalar(1.0), 0.5, 1).restore({})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": "ema"}, "needs one in"),
        ({"name": "ema", "decay": 1.0}, "needs one in"),
        ({"name": "copy", "decay": 0.5}, "only read with name ema"),
        ({"name": "copy", "every": 2}, "only read with name ema"),
        ({"name": "ema", "decay": 0.5, "every": 0}, "every: must be above 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises((ValueError, UserError), match=words):
        Reference(**fields)
