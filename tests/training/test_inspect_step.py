"""`check`: the samples it shows, and its one step."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from inspected import CONTROL, KTO, inspect_rows, pair, text_config, write
from tiny_runs import Bench

from mmalign.adapters._causal_lm import CausalLM
from mmalign.config import from_tree
from mmalign.data._cache import TensorCache
from mmalign.training.console import Console
from mmalign.training.inspection.check import inspect
from mmalign.training.rows import load_data
from mmalign.training.run import run
from mmalign.training.world import World
from mmalign.types import UserError


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("bench"))
    torch.set_num_threads(threads)


def test_the_step_is_that_of_the_run(bench: Bench, tmp_path: Path) -> None:
    found = inspect_rows(bench, tmp_path, [pair(i) for i in range(8)])
    trial = found.trial
    assert trial is not None and trial.samples == 4
    assert trial.loss == pytest.approx(math.log(2), abs=1e-6)
    assert trial.expected_loss == pytest.approx(math.log(2), abs=1e-6)
    assert trial.reward_margin == 0.0 and trial.gradient_norm > 0
    adapter = bench.config("text", "never").model.build(torch.device("cpu"), torch.float32)
    assert trial.trainable == trial.weights == sum(p.numel() for p in adapter.policy.parameters())
    assert trial.optimizer_bytes == 8 * trial.trainable
    assert trial.peak_bytes > 10 * 2**20 and trial.step_seconds > 0

    config = text_config(bench, tmp_path / "rows.jsonl", train={"steps": 1})
    folder = run(replace(config, output=str(tmp_path / "run"), cache=str(tmp_path / "cache")))
    line = json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])
    assert line["grad_norm"] == pytest.approx(trial.gradient_norm, rel=1e-5)


def test_the_samples_are_those_of_the_first_step(bench: Bench, tmp_path: Path) -> None:
    rows = [pair(i, margin=0.5) for i in range(8)]
    config = text_config(bench, write(tmp_path / "rows.jsonl", rows))
    found = inspect(config)
    assert len(found.samples) == 3
    for one in found.samples:
        number = one.id.removeprefix("r")
        chosen, rejected = one.responses
        assert (chosen.role, chosen.text, chosen.scored) == (
            "chosen",
            f"say {number}",
            f" yes {number}{CONTROL}",
        )
        assert rejected.scored == f" no {number}{CONTROL}"
        assert one.labels == {"margin": 0.5} and one.origin.startswith("rows.jsonl row ")
    world = World(0, 1, torch.device("cpu"))
    adapter = config.model.build(world.device, torch.float32)
    data = load_data(config, world, Console(world, progress=False, quiet=True))
    first = next(iter(data.loader(adapter, config).steps(0, 1)))
    assert [one.id for one in found.samples] == [item.id for item in first[:3]]


def test_a_failing_first_check_is_a_finding(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CausalLM, "self_check", lambda self, model, batch, draw: 0.5)
    found = inspect_rows(bench, tmp_path, [pair(i) for i in range(6)])
    assert found.trial is None and len(found.samples) == 3
    assert found.findings == (
        "the first step fails: first-batch check: scores differ by 0.5 from the model's own computation",
    )


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"objective": {"name": "simpo"}}, False),
        ({"objective": {"name": "sft"}}, False),
        ({"lora": {"rank": 2}, "reference": {"name": "cached"}}, True),
        ({"objective": KTO, "train": {"micro_batch": 2}}, True),
        ({"objective": [{"name": "dpo", "weight": 0.5}, {"name": "ipo", "weight": 2}]}, True),
    ],
)
def test_the_expected_loss(bench: Bench, tmp_path: Path, sections: dict[str, Any], expected: bool) -> None:
    found = inspect_rows(bench, tmp_path, [pair(i) for i in range(8)], **sections)
    assert found.sound and found.trial is not None
    assert (found.trial.expected_loss is not None) == expected
    if expected:
        assert found.trial.expected_loss == pytest.approx(found.trial.loss, abs=1e-5)
    if "lora" in sections:
        assert found.trial.trainable < found.trial.weights / 2
        assert not (tmp_path / "cache").exists()


def test_a_reward_model(bench: Bench, tmp_path: Path) -> None:
    tree = bench.tree("text", "never", train={"batch": 4}, objective={"name": "bt"})
    tree["model"] = {"adapter": "reward_head", "backbone": tree["model"], "head": {"init": "fresh"}}
    tree["data"] = {"source": "jsonl", "path": str(write(tmp_path / "r.jsonl", [pair(i) for i in range(6)]))}
    found = inspect(from_tree(tree, "test"))
    assert found.sound and found.trial is not None and found.trial.expected_loss is None
    assert found.samples[0].responses[0].scored.endswith(CONTROL)


def test_an_output_that_is_taken_is_a_finding(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    config = text_config(bench, write(tmp_path / "rows.jsonl", [pair(i) for i in range(6)]))
    found = inspect(replace(config, output=str(tmp_path / "taken")))
    assert len(found.findings) == 1 and "holds no run" in found.findings[0]
    assert found.trial is not None


def test_the_size_of_the_cache_is_told(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """20 pictures and their 10 captions, one epoch; nothing is written, and a full disk is named."""
    cache = tmp_path / "cache"
    config = replace(bench.config("image", "never", train={"steps": 3}), cache=str(cache))
    trial = inspect(config).trial
    assert trial is not None and not cache.exists()
    (line,) = (note for note in trial.notes if note.startswith("a run's cache: "))
    assert re.match(rf"a run's cache: about 0\.\d+ MB for 20 rows in {cache}/rows, [\d,]+ MB free$", line)
    text = inspect(bench.config("text", "never")).trial
    assert text is not None and not any("cache:" in note for note in text.notes)
    monkeypatch.setattr(TensorCache, "free", lambda cache: 100_000)
    with pytest.raises(UserError, match="20 rows take about .* and only 0.10 MB are free"):
        inspect(config)
