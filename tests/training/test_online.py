"""Training in rounds on what the policy samples: what a round holds, runs that gain and resume, refusals."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Bench, losses, metrics, same_files

from mmalign.config import RunConfig
from mmalign.training.checks import check_config
from mmalign.training.run import run
from mmalign.types import UserError

LORA = {"rank": 4, "targets": ["to_q", "to_k", "to_v", "to_out.0"]}
DARK = {"name": "brightness"}
ONLINE: dict[str, Any] = {"judge": DARK, "prompts": 4, "n": 2, "steps": 2, "batch": 2}
OBJECTIVES: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "dpo": ({"name": "dpo", "beta": 2000}, {}, {}),
    "d3po": ({"name": "d3po", "beta": 100.0}, {}, {}),
    "ddpo": ({"name": "ddpo"}, {"reference": {"name": "ema", "decay": 0.0, "every": 2}}, {}),
    "spo": ({"name": "spo", "threshold": 0.0}, {}, {"unbranched": 1}),
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("online"))
    torch.set_num_threads(threads)


def config_of(bench: Bench, name: str, output: str, steps: int = 4, **sections: Any) -> RunConfig:
    objective, extra, online = OBJECTIVES[name]
    train = {"steps": steps, "batch": 3, "micro_batch": 2, "lr": 0.01, **sections.pop("train", {})}
    settings: dict[str, Any] = {
        "lora": LORA,
        "objective": objective,
        "model": {"generation": {"steps": 4, "guidance": 2.0}},
        "online": {**ONLINE, **online, **sections.pop("online", {})},
        "train": train,
        **extra,
        **sections,
    }
    return bench.config("image", output, **settings)


def record_of(output: Path, number: int) -> dict[str, Any]:
    return dict(json.loads((output / "rounds" / f"{number:05d}" / "round.json").read_text()))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_run_stopped_inside_a_round_goes_on_bit_for_bit(bench: Bench, name: str) -> None:
    straight = run(config_of(bench, name, f"{name}-straight"))
    run(config_of(bench, name, f"{name}-resumed", steps=3))
    rounds = bench.folder / f"{name}-resumed" / "rounds"
    assert sorted(p.name for p in rounds.iterdir()) == ["00000", "00001"]
    resumed = run(config_of(bench, name, f"{name}-resumed"))
    same_files(straight / "final", resumed / "final")
    same_files(straight / "rounds", resumed / "rounds")
    assert losses(straight) == losses(resumed)
    told = [line["round/score"] for line in metrics(straight) if "round/score" in line]
    assert len(told) == 2 and [line.get("round/score") for line in metrics(resumed)] == [
        line.get("round/score") for line in metrics(straight)
    ]
