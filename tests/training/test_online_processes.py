"""Rounds of two processes are those of one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from blind_rounds import Make
from ranks import in_ranks
from test_online import LORA, ONLINE
from tiny_runs import Bench, largest_gap, losses, weights
from two_processes import run_files

from mmalign.config import from_tree
from mmalign.training.run import run

TRAIN = {"steps": 3, "batch": 3, "lr": 1e-4, "eps": 1e-3}
CASES: dict[str, dict[str, Any]] = {
    "dpo": {"objective": {"name": "dpo", "beta": 200}, "online": {**ONLINE, "prompts": 5, "offline": 0.4}},
    "ddpo": {
        "objective": {"name": "ddpo", "clip": 0.1},
        "reference": {"name": "ema", "decay": 0.0, "every": 2},
        "train": {**TRAIN, "backward": "chunked", "step_chunk": 2, "micro_batch": 1},
    },
}


@pytest.mark.multiprocess
def test_two_processes_sample_judge_and_train_like_one(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    model = {"generation": {"steps": 3, "guidance": 2.0}}
    shared: dict[str, Any] = {
        "model": model,
        "lora": LORA,
        "online": {**ONLINE, "prompts": 5},
        "train": TRAIN,
    }
    files = []
    for name, sections in CASES.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(bench.tree("image", f"two-{name}", **{**shared, **sections})))
        files.append(str(file))
    code, output = in_ranks(run_files, files, folder=tmp_path)
    assert code == 0, output[-3000:]
    assert output.count("weights differ by 0.0") == 2 * len(CASES)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, sections in CASES.items():
        one = run(from_tree(bench.tree("image", f"one-{name}", **{**shared, **sections}), name))
        two = tmp_path / f"two-{name}"
        places = [sorted(p.name for p in (run / "rounds").rglob("*")) for run in (one, two)]
        assert places[0] == places[1] and any(name.endswith(".png") for name in places[0])
        if name == "dpo":
            text = (two / "rounds" / "00000" / "round.json").read_text()
            assert '"offline"' in text and '"image"' in text, "pairs of the data, and sampled ones"
        assert losses(two) == pytest.approx(losses(one), abs=1e-5), name
        assert largest_gap(weights(two, 3), weights(one, 3)) < 2e-6, name
    torch.set_num_threads(threads)


@pytest.mark.multiprocess
def test_two_processes_write_blind_what_one_does(tmp_path: Path) -> None:
    make = Make.in_folder(tmp_path)
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(make.tree("two", steps=3)))
    code, output = in_ranks(run_files, [str(file)], folder=tmp_path)
    assert code == 0, output[-3000:]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    one, two = run(make("one", steps=3)), tmp_path / "two"
    torch.set_num_threads(threads)
    first, other = (
        json.loads((run / "rounds" / "00000" / "round.json").read_text())["samples"] for run in (one, two)
    )
    assert first == other and sum("told" in sample for sample in first) > 2
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
