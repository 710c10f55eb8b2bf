"""Every objective trains every family of models that look at pictures: all of them in one sum, and kto."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Bench, add_vision, metrics

sys.path.append(str(Path(__file__).parents[1] / "adapters"))

import more_vlm  # noqa: E402
import tiny_vlm  # noqa: E402

from mmalign._names import KINDS, class_of  # noqa: E402
from mmalign.catalogue import catalogue  # noqa: E402
from mmalign.training.run import run  # noqa: E402

FAMILIES = (*tiny_vlm.FAMILIES, *more_vlm.MORE)
LN2 = math.log(2)
# losses before the first step, where they do not depend on the data
STARTS = {
    "alpha_dpo": 0.171573,  # 3 - 2 sqrt 2
    "dmpo": 1.614463,
    "dpo": LN2,
    "hinge": 1.0,
    "ipo": 25.0,
    "mdpo": 3 * LN2,
    "mm_dpo": LN2,
    "rdpo": LN2,
    "kto": 0.5,
}


def pairwise() -> list[str]:
    """Objectives on pairs about one picture each."""
    every = [entry.name for entry in catalogue("objectives", "vlm")]
    return [
        name
        for name in every
        if set(class_of(KINDS["objective"], name)().roles["policy"])
        - set(class_of(KINDS["objective"], name)().views)
        <= {"chosen", "rejected"}
    ]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("bench"))
    add_vision(bench)
    path = Path(bench.data["seeing"]["path"])
    rows = [{**json.loads(line), "margin": 0.5} for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    yield bench
    torch.set_num_threads(threads)


def model(bench: Bench, family: str) -> dict[str, Any]:
    """A tiny model of the family, saved once."""
    folder = bench.folder / family
    if not (folder / "config.json").exists():
        save = tiny_vlm.save_vlm if family in tiny_vlm.FAMILIES else more_vlm.save_more
        save(family, folder)
    return {"path": str(folder)}


def first_step(bench: Bench, family: str, objective: Any) -> dict[str, float]:
    """The logged values of the first step."""
    name = "kto" if isinstance(objective, dict) else "all"
    config = bench.config(
        "seeing",
        f"{family}-{name}",
        model=model(bench, family),
        objective=objective,
        train={"steps": 2, "batch": 3, "micro_batch": 3},
        lora={"rank": 2},
    )
    lines = [line for line in metrics(run(config)) if "loss" in line]
    assert len(lines) == 2 and all(math.isfinite(line["loss"]) for line in lines)
    assert lines[0]["loss"] != lines[1]["loss"]
    return lines[0]


def test_all_but_three_are_on_plain_pairs() -> None:
    every = {entry.name for entry in catalogue("objectives", "vlm")}
    assert every - set(pairwise()) == {"kto", "re_align", "bdhs"} and len(pairwise()) >= 14


@pytest.mark.parametrize("family", FAMILIES)
def test_all_objectives_at_once_start_where_each_should(bench: Bench, family: str) -> None:
    line = first_step(bench, family, [{"name": name, "weight": 1.0} for name in pairwise()])
    losses = {name: line[f"{name}/loss"] for name in pairwise()}
    assert line["loss"] == pytest.approx(sum(losses.values()), rel=1e-5)
    for name in STARTS.keys() - {"kto"}:
        assert losses[name] == pytest.approx(STARTS[name], abs=2e-5), name


@pytest.mark.parametrize("family", FAMILIES)
def test_kto_starts_at_one_half(bench: Bench, family: str) -> None:
    assert first_step(bench, family, {"name": "kto"})["loss"] == pytest.approx(STARTS["kto"], abs=1e-5)
