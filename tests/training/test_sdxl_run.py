"""Stable Diffusion XL through a whole run: starts at ln 2, moves, goes on, leaves upstream weights."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_sdxl
from diffusers import StableDiffusionXLPipeline
from tiny_runs import Bench, largest_gap, losses, metrics, weights

from mmalign.training.run import run


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    bench.model["image"]["path"] = str(tiny_sdxl.save_pipeline(bench.folder / "xl"))
    bench.model["image"]["caption_dropout"] = 0.25
    return bench


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_three_steps_start_at_the_reference_and_leave_upstream_weights(bench: Bench, lora: Any) -> None:
    config = bench.config("image", f"run-{lora is None}", train={"steps": 3}, lora=lora)
    output = run(config)
    assert losses(output)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert len(losses(output)) == 3 and all(math.isfinite(loss) for loss in losses(output))
    assert metrics(output)[0]["error/chosen"] > 0
    notes = json.loads((output / "run.json").read_text())["notes"]
    assert any("largest log-ratio per unit at the start is 0" in note for note in notes)
    base = StableDiffusionXLPipeline.from_pretrained(bench.folder / "xl", local_files_only=True)
    before = {name: value.clone() for name, value in base.unet.state_dict().items()}
    if lora is None:
        trained = StableDiffusionXLPipeline.from_pretrained(output / "final", local_files_only=True)
        assert largest_gap(before, dict(trained.unet.state_dict())) > 1e-4
        states = base.text_encoder_2.state_dict()
        assert all(torch.equal(states[k], v) for k, v in trained.text_encoder_2.state_dict().items())
    else:
        base.load_lora_weights(output / "final")
        base.fuse_lora()
        base.unload_lora_weights()
        assert largest_gap(before, dict(base.unet.state_dict())) > 1e-6


def test_a_stopped_run_goes_on_with_equal_bits(bench: Bench) -> None:
    whole = run(bench.config("image", "whole", train={"steps": 3}, lora={"rank": 2}))
    run(bench.config("image", "parts", train={"steps": 2}, lora={"rank": 2}))
    parts = run(bench.config("image", "parts", train={"steps": 3}, lora={"rank": 2}))
    assert largest_gap(weights(whole, 3), weights(parts, 3)) == 0.0
    assert Path(whole / "metrics.jsonl").read_bytes() == Path(parts / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize("objective", [{"name": "mapo"}, {"name": "dpo", "beta": 200}])
def test_mapo_and_a_cached_reference_run(bench: Bench, objective: dict[str, Any]) -> None:
    cached = {} if objective["name"] == "mapo" else {"reference": {"name": "cached"}}
    config = bench.config(
        "image",
        f"own-{objective['name']}",
        objective=objective,
        train={"steps": 2, "draws": "fixed:2"},
        **cached,
    )
    assert all(math.isfinite(loss) for loss in losses(run(config)))
