"""Denoisers on a CUDA device: half precision, inversion, stored paths, rollouts, checkpointing, transfers."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from adapters import tiny_families as tiny
from adapters.family_subject import Subject, add_lora, drawn, error
from adapters.tiny_sd import pairs, prompt, save_pipeline
from torch import nn

from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._latent_sampling import Generation
from mmalign.adapters.diffusion import Diffusion
from mmalign.types import (
    Batch,
    Example,
    Frames,
    Inversion,
    LogProbs,
    Part,
    PreferenceSample,
    Prepared,
    Rollout,
    Row,
    derive_seed,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

DEVICE = torch.device("cuda")
NONE: frozenset[str] = frozenset()
ROLES = ("chosen", "rejected")
FLOWS = {"sd3", "flux", "flux_schnell", "sana", "wan", "ltx_video"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(tmp_path_factory.mktemp("pipeline"))


def built(folder: Path, device: torch.device = DEVICE, **settings: object) -> Denoiser:
    generation = Generation(steps=6, guidance=3.0, batch=4)
    return Diffusion(str(folder), **{"generation": generation, **settings}).build(device)  # type: ignore[arg-type]


def batch_of(adapter: Denoiser, samples: Sequence[PreferenceSample]) -> Batch:
    return adapter.collate(adapter.encode([adapter.prepare(one, ROLES) for one in samples]), ROLES)


def half_precision() -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16)


@pytest.mark.parametrize("name", sorted(tiny.FAMILIES))
def test_half_precision_of_every_family(name: str, tmp_path: Path) -> None:
    """Errors in float32, near those of the CPU; a copy agrees to the bit, so that a pair's loss is ln 2."""
    place, size = tiny.FAMILIES[name](tmp_path), tiny.SIZES[name]
    frames = {} if size.frames is None else {"frames": Frames(count=size.frames)}
    settings = {"resolution": size.side, **frames}
    half = built(place, dtype="bfloat16", encoder_dtype="bfloat16", **settings)
    copy = built(place, dtype="bfloat16", **settings).policy
    exact = built(place, torch.device("cpu"), **settings)
    samples = Subject(name, place, lambda *_: torch.empty(0)).pairs()
    batch, there = batch_of(half, samples), batch_of(exact, samples)
    draw = drawn(half, batch)
    with torch.no_grad(), half_precision():
        ours, theirs = (half.logprobs(model, batch, draw, NONE) for model in (half.policy, copy))
        margin = ours.ratio(theirs)
    with torch.no_grad():
        wanted = error(exact, there, drawn(exact, there))
    assert ours.values.dtype == torch.float32 and ours.values.device.type == DEVICE.type
    assert ours.error is not None and torch.allclose(ours.error.cpu(), wanted, rtol=0.15)
    chosen, rejected = (margin[batch.rows_of(role).to(DEVICE)] for role in ROLES)
    loss = -torch.nn.functional.logsigmoid(2000 * (chosen - rejected))
    assert loss.tolist() == pytest.approx([math.log(2)] * 2, abs=1e-6)


@torch.no_grad()
def test_float32_errors_are_those_of_the_cpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    here, there = built(folder), built(folder, torch.device("cpu"))
    first, second = batch_of(here, pairs()), batch_of(there, pairs())
    found = error(here, first, drawn(here, first)).cpu()
    assert torch.allclose(found, error(there, second, drawn(there, second)), rtol=1e-4)
    assert here.self_check(here.policy, first, drawn(here, first)) < 1e-4


@torch.no_grad()
def test_an_inverted_path_scores_its_own_leader_at_zero(folder: Path) -> None:
    adapter = built(folder)
    batch = batch_of(adapter, pairs(2))
    draw = drawn(adapter, batch)
    whole = Inversion("reference", 6, whole=True, guidance=2.0)
    found = adapter.invert(adapter.policy, batch, draw, whole, [0, 1])
    pick = torch.arange(6, device=DEVICE).expand(len(batch.row_sample), -1)
    scored = adapter.logprobs(adapter.policy, batch, {**draw, **found, "path_pick": pick}, NONE)
    assert scored.error is not None and float(scored.error.max()) < 1e-6
    noise = adapter.invert(adapter.policy, batch, draw, Inversion("policy", 4), [0, 1])["row_noise"]
    assert noise.device.type == DEVICE.type and bool(torch.isfinite(noise).all())


def test_a_stored_path_is_scored_as_it_was_sampled(folder: Path) -> None:
    """Under autocast as a run samples, and with a gradient that reaches the policy."""
    adapter = built(folder)
    with half_precision():
        paths = adapter.sample_paths(adapter.policy, [prompt("red fox"), prompt("a cat")], [1, 2])
    rows = [
        Prepared(f"s{i}", (Row("completion", 0, dict(path.data)),), encoded=True)
        for i, path in enumerate(paths)
    ]
    batch = adapter.collate(rows, ["completion"])
    with half_precision():
        scored: LogProbs = adapter.logprobs(adapter.policy, batch, adapter.draw(batch, [0, 0]), NONE)
    assert scored.values.shape == (2, 6) and scored.values.dtype == torch.float32
    assert bool(torch.isfinite(scored.values).all())
    scored.total().sum().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in adapter.policy.parameters())


def test_branches_on_the_device(folder: Path) -> None:
    adapter = built(folder)

    def judged(media: Sequence[Part], places: Sequence[int], level: int) -> list[float]:
        return [float(sum(part.data.resize((1, 1)).getpixel((0, 0)))) for part in media]

    (found,) = adapter.branch_paths(adapter.policy, [prompt("a cat")], [1], (2, 2), judged)
    assert len(found.margins) == 4 and found.chosen["path_next"].device.type == "cpu"


@pytest.mark.parametrize("rollout", [Rollout(3, (1, 2), predict=True), Rollout(3, (0, 2), every=2)])
def test_a_rollout_keeps_its_graph_and_pixels_in_float32(folder: Path, rollout: Rollout) -> None:
    adapter = built(folder)
    asked = PreferenceSample("a", {"prompt": (Example(prompt("a cat"), ()),)})
    encoded = adapter.encode([adapter.prepare(asked, ("prompt",))])
    batch = adapter.collate(encoded, ("prompt",))
    with half_precision():
        pixels = adapter.roll_out(adapter.policy, batch, rollout, [1])
    assert pixels.dtype == torch.float32 and pixels.device.type == DEVICE.type
    pixels.mean().backward()
    assert any(p.grad is not None and bool(p.grad.any()) for p in adapter.policy.parameters())


def gradients(adapter: Denoiser, batch: Batch) -> dict[str, torch.Tensor]:
    adapter.policy.zero_grad(set_to_none=True)
    error(adapter, batch, drawn(adapter, batch)).sum().backward()
    named: list[tuple[str, nn.Parameter]] = list(adapter.policy.named_parameters())
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def test_recomputed_activations_give_the_same_gradients(folder: Path) -> None:
    adapter = built(folder)
    add_lora(adapter)
    adapter.policy.to(DEVICE)
    batch = batch_of(adapter, pairs(2))
    without = gradients(adapter, batch)
    adapter.enable_checkpointing()
    adapter.policy.train()
    under = gradients(adapter, batch)
    assert without and without.keys() == under.keys()
    assert all(torch.allclose(without[n], under[n], rtol=1e-3, atol=1e-5) for n in without)


def test_rows_reach_the_device_whole_while_it_is_busy(folder: Path) -> None:
    """Copies that do not wait must not be overtaken: the host's tensors are let go at once."""
    adapter = built(folder)
    encoded = adapter.encode([adapter.prepare(one, ROLES) for one in pairs()])
    wanted = torch.stack([row.data["mean"] for one in encoded for row in one.rows])
    load = torch.randn(1024, 1024, device=DEVICE)
    for number in range(20):
        load = (load @ load).clamp(-1, 1)  # work that a copy has to queue behind
        batch = adapter.collate(encoded, ROLES)
        draw = adapter.draw(batch, [derive_seed(number, 0, "", "draw")] * len(encoded))
        assert torch.equal(batch.inputs["mean"].cpu(), wanted)
        stream = torch.Generator().manual_seed(derive_seed(number, 0, "", "draw"))
        torch.rand((), generator=stream)
        first = torch.randn(tuple(wanted.shape[1:]), generator=stream)
        assert torch.equal(draw["latent_noise"][0].cpu(), first)
