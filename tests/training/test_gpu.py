"""The same runs on a CUDA device: they start at ln 2, and follow the run on the CPU."""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from tiny_runs import Bench, add_vision, losses

from mmalign.training import setup
from mmalign.training.console import Console
from mmalign.training.rows import load_data
from mmalign.training.run import run
from mmalign.training.step import compute_gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    pytest.importorskip("diffusers")
    bench = Bench(tmp_path_factory.mktemp("gpu"))
    add_vision(bench)
    yield bench


@pytest.mark.parametrize("kind", ["text", "image", "vlm"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_on_the_device_starts_at_ln_2(bench: Bench, kind: str, precision: str) -> None:
    lora = {"rank": 4, "init": "gaussian"}
    train = {"precision": precision, "micro_batch": 2}
    done = run(bench.config(kind, f"{kind}-{precision}", lora=lora, train=train))
    assert losses(done)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert all(math.isfinite(loss) for loss in losses(done))


@pytest.mark.parametrize("kind", ["text", "image", "vlm"])
def test_the_device_follows_the_cpu(bench: Bench, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws come from the CPU on both, so only rounding differs; TF32 convolutions would show here."""
    torch.backends.cudnn.allow_tf32 = False
    device = run(bench.config(kind, f"{kind}-device"))
    monkeypatch.setattr(setup.torch.cuda, "is_available", lambda: False)
    cpu = run(bench.config(kind, f"{kind}-cpu"))
    assert losses(device) == pytest.approx(losses(cpu), abs=1e-2 if kind == "image" else 1e-4)


IMAGE_RUNS: dict[str, dict[str, Any]] = {
    "fixed draws": {"reference": {"name": "cached"}, "train": {"draws": "fixed:1"}},
    "recomputed": {"train": {"checkpointing": True}},
    "mapo": {"objective": {"name": "mapo"}, "reference": {"name": "none"}},
    "inpo": {"objective": {"name": "inpo", "beta": 200, "steps": 4}},
    "inverted paths": {
        "objective": {"name": "inversion_dpo", "steps": 4},
        "train": {"backward": "deferred", "step_chunk": 2, "micro_batch": 1},
    },
}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", IMAGE_RUNS)
def test_runs_of_a_denoiser_on_the_device(bench: Bench, name: str, precision: str) -> None:
    """Every way to score and differentiate; those that are on pairs start at ln 2."""
    sections = IMAGE_RUNS[name]
    train = {"micro_batch": 2, **sections.get("train", {}), "precision": precision}
    lora = {"rank": 4, "init": "gaussian"}
    done = run(bench.config("image", f"{name}-{precision}", **{**sections, "train": train, "lora": lora}))
    assert all(math.isfinite(loss) for loss in losses(done))
    # a cached score, or a path, was found in another batch, which half precision rounds otherwise
    loose = precision == "bf16" and name in ("fixed draws", "inverted paths")
    if name != "mapo":
        assert losses(done)[0] == pytest.approx(math.log(2), abs=5e-2 if loose else 1e-5)


def test_a_step_of_a_denoiser_waits_for_the_device_a_few_times(bench: Bench) -> None:
    """Every wait leaves the device idle while the host prepares what follows."""
    config = bench.config("image", "waits", lora={"rank": 4}, train={"precision": "bf16"})
    accelerator, world = setup.start()
    console = Console(world, progress=False, quiet=True)
    data = load_data(config, world, console)
    adapter = setup.build_policy(config, world.device)
    data.admit(adapter, config, console)
    engine, encoder, _ = setup.build_engine(config, accelerator, world, adapter, data, console)
    items = next(iter(data.loader(adapter, config).steps(0, 1)))
    micros = setup.micro_batches(engine, encoder, items, config.train)
    compute_gradients(engine, micros, {}, 0)  # the first step makes workspaces
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            compute_gradients(engine, micros, {}, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    waits = [f"{one.filename}:{one.lineno}" for one in caught if "synchronizing CUDA" in str(one.message)]
    assert len(waits) <= 8, "\n".join(waits)
