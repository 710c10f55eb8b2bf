"""The parts of the seam that shipped objectives use little: lists, distributions, state, own classes."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import Bench, losses, metrics

from mmalign.training.run import run
from mmalign.types import UserError


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("own"))
    torch.set_num_threads(threads)


def lists(folder: Path) -> str:
    """Ranked lists of two to four responses."""
    path = folder / "lists.jsonl"
    with path.open("w") as file:
        for i in range(8):
            responses = [" yes", " no", " perhaps a box", " the happy girl"][: 2 + i % 3]
            row = {"prompt": f"why {i}?", "responses": responses, "scores": [3, 1, 2, 0][: 2 + i % 3]}
            file.write(json.dumps(row) + "\n")
    return str(path)


def test_lists_of_uneven_length(bench: Bench) -> None:
    """At the start every order is equally likely: the loss is the mean of log K!."""
    config = bench.config(
        "text",
        "lists",
        data={"path": lists(bench.folder)},
        objective={"name": "own:ListMLE"},
        train={"batch": 8, "steps": 5, "lr": 3e-3},
    )
    found = losses(run(config))
    expected = sum(math.lgamma(3 + i % 3) for i in range(8)) / 8
    assert found[0] == pytest.approx(expected, abs=1e-5)
    assert found[-1] < found[0] - 1e-3


def test_lists_in_chunks_equal_lists_at_once(bench: Bench) -> None:
    common = {"data": {"path": lists(bench.folder)}, "objective": {"name": "own:ListMLE"}}
    whole = run(bench.config("text", "lists-whole", train={"batch": 8, "eps": 1e-3}, **common))
    parts = {"batch": 8, "eps": 1e-3, "backward": "chunked", "micro_batch": 3}
    assert losses(run(bench.config("text", "lists-parts", train=parts, **common))) == pytest.approx(
        losses(whole), abs=2e-6
    )


def test_distributions_and_state(bench: Bench) -> None:
    """KL starts at 0 and moves; the state counts steps and is in the checkpoint."""
    done = run(bench.config("text", "kl", objective={"name": "own:KLAnchor"}, train={"lr": 3e-3}))
    lines = metrics(done)
    assert abs(lines[0]["kl"]) < 1e-6 < lines[-1]["kl"]
    state = load_file(done / "checkpoints" / "step-000004" / "objective.safetensors")
    assert float(state["steps"]) == 4 and float(state["mean"]) > 0


def test_distributions_are_refused_where_there_are_none(bench: Bench) -> None:
    with pytest.raises(UserError, match="needs distribution"):
        run(bench.config("image", "no-kl", objective={"name": "own:KLAnchor"}))


def test_a_row_without_a_needed_label_is_named(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "few.jsonl"
    path.write_text('{"prompt": "a", "chosen": " b", "rejected": " c"}\n' * 2)
    config = bench.config(
        "text",
        "label",
        data={"path": str(path)},
        objective={"name": "dpo", "margin": 1.0},
        train={"batch": 2},
    )
    with pytest.raises(UserError, match=r"few.jsonl row 1.*margin"):
        run(config)


def test_transforms_apply_to_any_pairwise_loss(bench: Bench) -> None:
    """With alpha 1 nothing changes, with alpha 0 the longer response's excess is gone."""
    plain = losses(run(bench.config("text", "ld-none")))
    same = losses(
        run(bench.config("text", "ld-one", transforms=[{"name": "length_desensitized", "alpha": 1}]))
    )
    less = losses(
        run(bench.config("text", "ld-zero", transforms=[{"name": "length_desensitized", "alpha": 0}]))
    )
    assert same == plain
    assert less[1] != plain[1]
