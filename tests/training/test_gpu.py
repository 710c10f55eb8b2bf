"""The same runs on a CUDA device: they start at ln 2, and follow the run on the CPU."""

import math
from collections.abc import Iterator

import pytest
import torch
from tiny_runs import Bench, add_vision, losses

from mmalign.training import setup
from mmalign.training.run import run

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
