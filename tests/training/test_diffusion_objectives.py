"""Objectives and transforms of diffusion in whole runs: where they start, what they log, carry and refuse."""

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import Bench, largest_gap, losses, metrics, weights

from mmalign.config import from_tree
from mmalign.training.run import run
from mmalign.types import UserError


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("diffusion"))
    torch.set_num_threads(threads)


STARTS: list[tuple[dict[str, Any], float]] = [
    ({"name": "dpo", "beta": 2000, "beta_schedule": "one_minus_t_sq"}, math.log(2)),
    ({"name": "dpo", "beta": 2000, "target_gradient": 0.2}, math.log(2)),
    ({"name": "dmpo", "beta": 2000}, 1.614463),
    (
        {"name": "alpha_dpo", "beta": 2000, "schedule": "confidence"},
        (0.5**0.25 - 0.125 - 0.75) / (0.25 * -0.75),
    ),
    ({"name": "hinge", "beta": 2000}, 1.0),
    ({"name": "dspo", "beta": 2000, "form": "sdxl"}, 0.25),
]


@pytest.mark.parametrize(
    ("objective", "start"), STARTS, ids=lambda v: v["name"] if isinstance(v, dict) else ""
)
def test_runs_start_where_the_objective_says(bench: Bench, objective: dict[str, Any], start: float) -> None:
    name = "-".join(str(value) for value in objective.values())
    found = losses(run(bench.config("image", name, objective=objective, train={"steps": 2})))
    assert found[0] == pytest.approx(start, abs=2e-6)
    assert math.isfinite(found[1]) and found[1] != found[0]


@pytest.mark.parametrize("name", ["linear_dpo", "dspo", "diffusion_orpo"])
def test_objectives_on_errors_train(bench: Bench, name: str) -> None:
    lines = metrics(run(bench.config("image", name, objective={"name": name}, train={"steps": 2})))
    chosen, rejected = lines[0]["error/chosen"], lines[0]["error/rejected"]
    start = {
        "linear_dpo": (chosen - rejected) / 2,
        "dspo": chosen,
        "diffusion_orpo": chosen + 0.1 * math.log(2),  # errors of both sides are nearly equal
    }[name]
    assert lines[0]["loss"] == pytest.approx(start, abs=1e-6 if name != "diffusion_orpo" else 5e-3)
    assert math.isfinite(lines[1]["loss"])


def test_the_safeguard_changes_steps_but_no_value(bench: Bench) -> None:
    plain = run(bench.config("image", "unguarded"))
    done = {}
    for scope in ("per_pair", "per_batch"):
        transforms = [{"name": "sdpo", "mu": 0.5, "scope": scope}]
        done[scope] = run(bench.config("image", f"guarded-{scope}", transforms=transforms))
        assert losses(done[scope])[0] == losses(plain)[0]
        assert losses(done[scope])[1] != losses(plain)[1]
        scales = [line["loser_scale"] for line in metrics(done[scope])]
        assert all(0 <= scale <= 1 for scale in scales) and min(scales) < 1
    assert losses(done["per_pair"])[1] != losses(done["per_batch"])[1]


def test_one_safeguard_for_the_step_is_not_split(bench: Bench) -> None:
    transforms = [{"name": "sdpo", "scope": "per_batch"}]
    config = bench.config("image", "split", transforms=transforms, train={"micro_batch": 2})
    with pytest.raises(UserError, match="needs whole predicted and target tensors.*train.micro_batch=4"):
        run(config)
    config = bench.config(
        "image", "pairs", transforms=[{"name": "sdpo"}], train={"micro_batch": 2, "steps": 1}
    )
    whole = bench.config("image", "pairs-whole", transforms=[{"name": "sdpo"}], train={"steps": 1})
    assert largest_gap(weights(run(config), 1), weights(run(whole), 1)) < 1e-4


def test_whole_predictions_of_held_out_rows_are_seen_together(bench: Bench) -> None:
    """The step's mean of the sdxl form runs over all held-out rows, which are scored one at a time."""
    objective = {"name": "dspo", "beta": 2000, "form": "sdxl"}
    train = {"steps": 1, "eval_every": 1, "batch": 1, "lr": 1e-9}
    config = bench.config("image", "heldout", objective=objective, train=train, data={"heldout": 2})
    found = [line for line in metrics(run(config)) if "heldout/loss" in line]
    assert found[-1]["heldout/loss"] == pytest.approx(0.25, abs=1e-3)
    assert found[-1]["heldout/distance"] < 1e-6


def test_a_label_that_a_transform_needs_is_asked_of_every_row(bench: Bench) -> None:
    with pytest.raises(UserError, match=r"pairs.jsonl row 1.*needs the label 'mask'"):
        run(bench.config("image", "masked", transforms=[{"name": "region_mask"}]))


def test_beta_follows_the_margins_and_goes_on_after_a_stop(bench: Bench) -> None:
    objective = {"name": "dpo", "beta": 1e6, "target_gradient": 0.2}
    whole = run(bench.config("image", "following", objective=objective))
    betas = [line["beta"] for line in metrics(whole)]
    assert betas[0] == 1e6 and all(beta < 1e6 for beta in betas[1:])
    state = load_file(whole / "checkpoints" / "step-000004" / "objective.safetensors")
    assert float(state["mean_margin"]) == pytest.approx(math.log(4) / betas[-1], rel=1e-5)
    parts = bench.tree("image", "stopped", objective=objective, train={"steps": 2})
    run(from_tree(parts, "test"))
    parts["train"]["steps"] = 4
    assert largest_gap(weights(run(from_tree(parts, "test")), 4), weights(whole, 4)) == 0


def test_one_beta_for_the_step_however_it_is_split(bench: Bench) -> None:
    objective = {"name": "dpo", "beta": 1e6, "target_gradient": 0.2}
    lines = [
        metrics(
            run(bench.config("image", f"beta-{micro}", objective=objective, train={"micro_batch": micro}))
        )
        for micro in (4, 2)
    ]
    for whole, split in zip(*lines, strict=True):
        assert split["beta"] == pytest.approx(whole["beta"], rel=2e-2)
        assert split["loss"] == pytest.approx(whole["loss"], abs=2e-3)
