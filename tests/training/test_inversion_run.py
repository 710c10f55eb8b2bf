"""Runs on inverted latents: exact resuming, kept paths, gradients taken step by step, refusals."""

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Bench, losses, same_files

from mmalign.config import RunConfig
from mmalign.data._cache import TensorCache
from mmalign.training import paths
from mmalign.training.checks import check_config
from mmalign.training.console import Console
from mmalign.training.inspection.check import inspect
from mmalign.training.rows import load_data
from mmalign.training.run import run
from mmalign.training.setup import build_engine, build_policy, micro_batches, start
from mmalign.training.step import Engine, Micro, compute_gradients, score_all
from mmalign.types import UserError

LORA = {"rank": 4, "targets": ["to_q", "to_v"]}
PATHS = {"name": "inversion_dpo", "steps": 6, "beta": 2000}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("inversion"))
    torch.set_num_threads(threads)


def engine_of(config: RunConfig, scale: float = 0.3) -> tuple[Engine, list[Micro]]:
    """The engine of a run and its first step, with the policy moved away from its reference."""
    accelerator, world = start()
    console = Console(world, progress=False, quiet=True)
    data = load_data(config, world, console)
    adapter = build_policy(config, world.device)
    data.admit(adapter, config, console)
    engine, encoder, _ = build_engine(config, accelerator, world, adapter, data, console)
    torch.manual_seed(1)
    for name, parameter in adapter.policy.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=scale)
    items = next(iter(data.loader(adapter, config).steps(0, 1)))
    return engine, micro_batches(engine, encoder, items, config.train)


def gradients(engine: Engine, micros: list[Micro]) -> tuple[float, torch.Tensor]:
    engine.adapter.policy.zero_grad()
    result = compute_gradients(engine, micros, {}, 0)
    grads = [p.grad.flatten() for p in engine.adapter.policy.parameters() if p.grad is not None]
    return float(result.loss), torch.cat(grads)


@pytest.mark.parametrize("objective", [{"name": "inpo", "beta": 200, "steps": 4}, {**PATHS, "count": 2}])
def test_n_plus_m_steps_equal_n_stop_m_bit_for_bit(bench: Bench, objective: dict[str, Any]) -> None:
    def part(steps: int, output: str) -> RunConfig:
        name = f"{objective['name']}-{output}"
        return bench.config("image", name, objective=objective, train={"steps": steps}, lora=LORA)

    straight = run(part(3, "straight"))
    run(part(2, "resumed"))
    resumed = run(part(3, "resumed"))
    same_files(straight / "final", resumed / "final")
    assert losses(straight) == losses(resumed)
    assert losses(straight)[0] == pytest.approx(math.log(2), abs=1e-6)


def test_inpo_moves_from_the_first_step_and_inversion_dpo_does_not(bench: Bench) -> None:
    for objective, moves in (({"name": "inpo", "beta": 200, "steps": 4}, True), (PATHS, False)):
        engine, micros = engine_of(bench.config("image", "none", objective=objective, lora=LORA), scale=0.0)
        _, gradient = gradients(engine, micros)
        assert bool(gradient.norm() > 1e-4) is moves, objective["name"]


def test_the_noise_that_leads_to_inverted_latents_is_what_is_scored(bench: Bench) -> None:
    """With one grid step, the policy's only prediction leads there: its error against itself is small."""
    engine, micros = engine_of(
        bench.config("image", "none", objective={"name": "inpo", "jitter": 0.0, "steps": 50}, lora=LORA)
    )
    inverted = score_all(engine, micros[0])["policy"]["chosen"].mean_error()
    random = replace(engine, objective=bench.config("image", "none", lora=LORA).objective)
    plain = score_all(random, micros[0])["policy"]["chosen"].mean_error()
    assert float(inverted.mean()) < 0.5 * float(plain.mean())


def test_kept_paths_give_the_very_scores(bench: Bench, tmp_path: Path) -> None:
    config = replace(bench.config("image", "none", objective=PATHS, lora=LORA), cache=str(tmp_path))
    engine, micros = engine_of(config)
    first = score_all(engine, micros[0])["policy"]["chosen"].error
    kept = list((tmp_path / "paths").rglob("*.safetensors"))
    assert len(kept) == 2 * len(micros[0].items)  # one path per picture
    again = score_all(engine, micros[0])["policy"]["chosen"].error
    without = score_all(replace(engine, paths=None), micros[0])["policy"]["chosen"].error
    assert first is not None and again is not None and without is not None
    assert torch.equal(first, again) and torch.equal(first, without)
    assert first.shape == (4, 6) and bool((first > 0).all())


def test_the_size_of_kept_paths_is_told_as_it_turns_out(bench: Bench, tmp_path: Path) -> None:
    """Steps 1 and 2 of batch 4: all of 8 samples, a path of either side of each, however much is scored."""
    objective = {**PATHS, "steps": 40, "count": 1}
    config = bench.config("image", "told", objective=objective, lora=LORA, train={"steps": 2})
    config = replace(config, cache=str(tmp_path), output=str(tmp_path / "run"))
    trial = inspect(config).trial
    assert trial is not None and not (tmp_path / "paths").exists()
    run(config)
    notes = json.loads((tmp_path / "run" / "run.json").read_text())["notes"]
    cache = TensorCache(tmp_path / "paths")
    assert len(list(cache.folder.rglob("*.safetensors"))) == 16
    assert not any("inverted paths" in note for note in notes)  # said, not kept
    line = next(note for note in trial.notes if "inverted paths" in note)
    told = re.match(rf"a run's cache: about ([\d.]+) MB for 16 inverted paths in {cache.folder}, ", line)
    assert told is not None and float(told[1]) == pytest.approx(cache.used() / 1e6, rel=0.05)


def test_paths_are_refused_before_one_is_found(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run has encoded the rows, so that only paths are missing."""
    config = replace(bench.config("image", "none", objective=PATHS, lora=LORA), cache=str(tmp_path))
    engine_of(config)
    engine, (micro, *_) = engine_of(config)
    monkeypatch.setattr(TensorCache, "free", lambda cache: 100)
    with pytest.raises(UserError, match=r"20 inverted paths take about .* by which paths are found again"):
        score_all(engine, micro)
    assert not (tmp_path / "paths").exists()


def test_paths_that_memory_cannot_hold_are_found_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(bench.config("image", "none", objective=PATHS, lora=LORA), cache=None)
    engine, (micro, *_) = engine_of(config)
    assert engine.paths is not None
    first = score_all(engine, micro)["policy"]["chosen"].error
    held = list(engine.paths._memory.values())
    assert len(held) == 2 * len(micro.items)
    shares = [value.untyped_storage().nbytes() == value.nbytes for one in held for value in one.values()]
    assert all(shares)  # no path keeps the batch that it was found in

    monkeypatch.setattr(paths, "MEMORY_BYTES", 0)
    other, (same, *_) = engine_of(config)
    found = [score_all(other, same)["policy"]["chosen"].error for _ in range(2)]
    assert other.paths is not None and not other.paths._memory
    assert first is not None and all(one is not None and torch.equal(one, first) for one in found)


@pytest.mark.parametrize("chunk", [1, 4, 6])
def test_a_path_taken_in_pieces_has_the_gradient_of_the_whole(bench: Bench, chunk: int) -> None:
    config = bench.config("image", "none", objective=PATHS, lora=LORA, train={"micro_batch": 1})
    engine, micros = engine_of(config)
    loss, whole = gradients(engine, micros)
    apart, pieces = gradients(replace(engine, deferred=True, step_chunk=chunk), micros)
    assert apart == pytest.approx(loss, rel=1e-5)
    assert abs(loss - math.log(2)) > 1e-3
    assert float((pieces - whole).norm() / whole.norm()) < 1e-4


def test_a_deferred_run_trains_like_a_direct_one(bench: Bench) -> None:
    objective = {**PATHS, "count": 3}
    train = {"steps": 2, "micro_batch": 1}
    direct = run(bench.config("image", "direct", objective=objective, lora=LORA, train=train))
    deferred = {**train, "backward": "deferred", "step_chunk": 2}
    pieces = run(bench.config("image", "deferred", objective=objective, lora=LORA, train=deferred))
    assert losses(pieces) == pytest.approx(losses(direct), rel=1e-5)


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"model": {"caption_dropout": 0.1}}, r"model\.caption_dropout: inverted paths draw nothing"),
        ({"model": {"num_draws": 2}}, r"model\.num_draws: inverted paths draw nothing"),
        ({"reference": {"name": "cached"}, "train": {"draws": "fixed:1"}}, "this objective inverts"),
        ({"train": {"backward": "deferred"}}, r"deferred: needs train\.micro_batch 1, got None"),
    ],
)
def test_what_does_not_go_with_paths_is_refused(bench: Bench, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_config(bench.config("image", "none", objective=PATHS, lora=LORA, **sections))


def test_deferring_needs_a_path(bench: Bench) -> None:
    train = {"backward": "deferred", "micro_batch": 1}
    with pytest.raises(UserError, match="only for an objective on the steps of a path"):
        check_config(bench.config("image", "none", lora=LORA, train=train))
    with pytest.raises(UserError, match="needs inversion .*adapter text offers"):
        check_config(bench.config("text", "none", objective=PATHS))
