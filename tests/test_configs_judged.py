"""The shipped configs that train on judged samples of the model itself: each resolves and trains."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_configs import ROOT, header, shown_rows, write_rows

from mmalign.config import dump, from_tree, load
from mmalign.training.checks import check_config

CONFIGS = sorted(
    str(path.relative_to(ROOT / "configs"))
    for path in (ROOT / "configs").glob("image/*.yaml")
    if {"online", "reward"} & yaml.safe_load(path.read_text()).keys()
)
SMALL = {"refl": {"first": 1, "last": 2}, "alignprop": {"mean": 2, "deviation": 1}, "longalign": {"every": 2}}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_resolves_and_says_what_data_it_wants(name: str) -> None:
    config = load(ROOT / "configs" / name)
    check_config(config)
    assert dump(from_tree(yaml.safe_load(dump(config)), name)) == dump(config)
    assert config.output == f"runs/{name.removesuffix('.yaml')}"
    train = config.train
    assert train.steps and train.save_every and train.save_every < train.steps
    assert train.batch % (train.micro_batch or 1) == 0
    assert "Data: " in header(name) and f" train configs/{name}" in header(name) and shown_rows(name)


def shrunk(name: str, folder: Path) -> dict[str, Any]:
    """The config with nothing changed but sizes, places, length, and who judges."""
    from adapters import tiny_sd

    tree: dict[str, Any] = yaml.safe_load((ROOT / "configs" / name).read_text())
    tree["model"] |= {"path": str(tiny_sd.save_pipeline(folder / "model")), "resolution": 32}
    tree["model"]["generation"]["steps"] = 3
    tree["data"]["path"] = str(write_rows(shown_rows(name), folder))
    for row in (lines := [json.loads(one) for one in (folder / "pairs.jsonl").read_text().splitlines()]):
        row["prompt"] += f" {row['id']}"
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    tree["train"] |= {"steps": 2, "batch": 2, "save_every": 1}
    tree["train"].pop("micro_batch", None)
    tree["train"].pop("eval_every", None)
    if "online" in tree:
        tree["online"] |= {"judge": {"name": "brightness"}, "prompts": 2, "n": 2}
        if "unbranched" in tree["online"]:
            tree["online"]["unbranched"] = 1
            tree["objective"]["threshold"] = 0.0
    else:
        tree["reward"] = {"name": "brightness"}
        tree["data"]["heldout"] = 2
        tree["objective"] |= {"steps": 3, **SMALL.get(tree["objective"]["name"], {})}
    log = {"every": 1, "progress": False}
    return {**tree, "log": log, "output": str(folder / "run"), "cache": str(folder / "cache")}


@pytest.mark.parametrize("name", CONFIGS)
def test_two_steps_with_a_small_judge(name: str, tmp_path: Path) -> None:
    from mmalign.training.run import run

    output = run(from_tree(shrunk(name, tmp_path), name))
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    trained = [line["loss"] for line in lines if "loss" in line]
    assert len(trained) == 2 and all(math.isfinite(loss) for loss in trained)
    if any(word in name for word in ("dpo_rounds", "d3po", "spo")):
        assert trained[0] == pytest.approx(math.log(2), abs=1e-5)
    assert json.loads((output / "run.json").read_text())["status"] == "finished"
    assert any((output / "final").iterdir())
