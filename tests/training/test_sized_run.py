"""Runs on pictures of several shapes: a step is split by shape, and nothing else about it changes."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from adapters.tiny_sd import picture
from tiny_runs import Bench, largest_gap, losses, metrics, same_files, weights

from mmalign.config import RunConfig
from mmalign.training.run import run
from mmalign.types import UserError

SIZES = [(48, 32), (32, 48), (40, 40), (60, 40), (33, 50)]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("bench"))
    folder = bench.folder / "sized"
    folder.mkdir()
    rows = []
    for i in range(10):
        row: dict[str, Any] = {"id": f"row-{i}", "prompt": f"cat {i % 4}"}
        for side, role in enumerate(("chosen", "rejected")):
            picture(10 * i + side, *SIZES[(i + 2 * side) % 5]).save(folder / f"{role}{i}.png")
            row[role] = {"image": f"{role}{i}.png"}
        rows.append(json.dumps(row))
    (folder / "pairs.jsonl").write_text("\n".join(rows) + "\n")
    bench.data["image"] = {"source": "jsonl", "path": str(folder / "pairs.jsonl")}
    bench.model["image"] |= {"buckets": "aspect", "flip": True}
    yield bench
    torch.set_num_threads(threads)


def config(bench: Bench, output: str, cache: str | None = None, **sections: Any) -> RunConfig:
    made = bench.config("image", output, **sections)
    return replace(made, cache=cache and str(bench.folder / cache))


CASES: dict[str, dict[str, Any]] = {
    "dpo": {},
    "kto": {"objective": {"name": "kto", "beta": 200}},  # couples the samples of a step: through the scores
    "fixed draws": {"reference": {"name": "cached"}, "train": {"draws": "fixed:2", "steps": 4}},
}


@pytest.mark.parametrize("name", CASES)
def test_the_split_by_shape_changes_nothing(bench: Bench, name: str) -> None:
    """A step of several shapes gives what its samples give one by one."""
    case, slug = CASES[name], name.replace(" ", "-")
    train = {"steps": 2, "lr": 1e-4, "eps": 1e-3, **case.get("train", {})}
    whole = run(config(bench, f"{slug}-whole", **{**case, "train": train}))
    single = run(config(bench, f"{slug}-single", **{**case, "train": {**train, "micro_batch": 1}}))
    assert losses(whole) == pytest.approx(losses(single), abs=1e-4)
    assert largest_gap(weights(whole, train["steps"]), weights(single, train["steps"])) < 2e-6
    if name != "kto":
        assert losses(whole)[0] == pytest.approx(math.log(2), abs=1e-5)


def test_a_warm_cache_gives_the_same_run(bench: Bench) -> None:
    """Both ways round of every picture are kept; which one a draw takes does not depend on the cache."""
    cold, warm = (run(config(bench, name, "cache")) for name in ("cold", "warm"))
    same_files(cold / "final", warm / "final")
    assert losses(cold) == losses(warm)


def test_held_out_rows_of_several_shapes(bench: Bench) -> None:
    done = run(config(bench, "held", data={"heldout": 5}, train={"steps": 2, "micro_batch": 2}))
    held = [line["heldout/loss"] for line in metrics(done) if "heldout/loss" in line]
    assert held[0] == pytest.approx(math.log(2), abs=1e-5) and len(held) == 2


def test_a_step_that_must_not_be_split_is_refused(bench: Bench) -> None:
    with pytest.raises(UserError, match=r"train\.backward=direct: .*model\.buckets=square or use auto"):
        run(config(bench, "refused", objective={"name": "kto"}, train={"backward": "direct"}))
