"""A diffusion step asks nothing of the device between its first forward and its gradients."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families
from device_waits import Waits, followed
from tiny_runs import Bench
from torch import Tensor

from mmalign.builders._media import encoded
from mmalign.config import RunConfig
from mmalign.training.console import Console
from mmalign.training.rows import load_data
from mmalign.training.setup import build_engine, build_policy, micro_batches, start
from mmalign.training.step import Engine, Micro, collate_labels, compute_gradients
from mmalign.types import Clip, Item, Message, Part, Prepared, Row

LORA = {"rank": 2, "targets": ["to_q", "to_v"]}
CLIPS = {"resolution": 16, "frames": {"sampling": "leading", "count": 4, "fps": 8.0}}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = Bench(tmp_path_factory.mktemp("waits"))
    tiny_families.FAMILIES["modelscope"](made.folder / "modelscope", 0)
    write_clips(made.folder)
    yield made
    torch.set_num_threads(threads)


def write_clips(folder: Path) -> None:
    """Pairs of clips of four frames whose segments are labelled."""
    rows = []
    for i in range(4):
        for k, role in enumerate(("chosen", "rejected")):
            stream = torch.Generator().manual_seed(2 * i + k)
            pixels = torch.randint(0, 256, (4, 3, 16, 16), generator=stream).to(torch.uint8)
            clip = Clip(pixels, tuple(range(4)), tuple(j / 8 for j in range(4)), 8.0, 4, "memory")
            (folder / f"{role}-{i}.mkv").write_bytes(encoded(Part("video", clip), "test")[0])
        sides = {role: {"video": f"{role}-{i}.mkv"} for role in ("chosen", "rejected")}
        rows.append({"id": f"c{i}", "prompt": f"cat {i}", "segments": [1, -1][: 1 + i % 2], **sides})
    (folder / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def engine_of(config: RunConfig) -> tuple[Engine, list[Micro]]:
    """The engine of a run and its first step."""
    accelerator, world = start()
    console = Console(world, progress=False, quiet=True)
    data = load_data(config, world, console)
    adapter = build_policy(config, world.device)
    data.admit(adapter, config, console)
    engine, encoder, _ = build_engine(config, accelerator, world, adapter, data, console)
    items = next(iter(data.loader(adapter, config).steps(0, 1)))
    return engine, micro_batches(engine, encoder, items, config.train)


def stored_paths(engine: Engine) -> list[Micro]:
    """Two pairs of paths that the policy samples."""
    adapter: Any = engine.adapter
    prompts = [(Message("user", (Part("text", f"cat {i}"),)),) for i in range(4)]
    paths = adapter.sample_paths(adapter.policy, prompts, range(4))
    items = []
    for place in range(2):
        sides = zip(("chosen", "rejected"), paths[2 * place : 2 * place + 2], strict=True)
        rows = tuple(Row(role, 0, dict(path.data)) for role, path in sides)
        labels = {"step_margins": [1.0] * len(paths[0].data["path_level"])}
        items.append(Item(Prepared(f"p{place}", rows, encoded=True), 0, labels, {}, 1.0, "test"))
    return [micro_of(items)]


def micro_of(items: Sequence[Item]) -> Micro:
    labels = collate_labels(items, torch.device("cpu"))
    return Micro(items, [item.prepared for item in items], labels, torch.ones(len(items)))


def on_device(engine: Engine, micros: Sequence[Micro], state: dict[str, Tensor]) -> list[Tensor]:
    """What is on the device before the step."""
    adapter: Any = engine.adapter
    held = [*adapter.policy.parameters(), *adapter.policy.buffers(), *adapter._empty.values()]
    held += [adapter._schedule.signal, adapter._schedule.noise, adapter._latents._offset]
    held += [adapter._latents._factor, *state.values()]
    for micro in micros:
        held += [micro.weight, *(v for v in micro.labels.values() if isinstance(v, Tensor))]
    return held


def waits_of(engine: Engine, micros: list[Micro]) -> Waits:
    state = dict(engine.objective.initial_state())
    with followed(on_device(engine, micros, state)) as waits:
        compute_gradients(engine, micros, state, 0)
    assert any(bool(p.grad.any()) for p in engine.adapter.policy.parameters() if p.grad is not None)
    return waits


ONE_WALK = "_denoiser_paths.py:implied_noise cpu"  # how far every walk goes decides on its forwards
LABELS = "_units.py:unit_labels cpu"  # lists are compared with the units that there are, once a role
PAIRS: list[dict[str, Any]] = [
    {"name": "dpo"},
    {"name": "dpo", "target_gradient": 0.2},
    {"name": "mapo"},
    {"name": "kto"},
    {"name": "kto", "baseline": "midpoint"},
    {"name": "alpha_dpo", "schedule": "confidence"},
    {"name": "dspo", "form": "sdxl"},
    {"name": "linear_dpo"},
    {"name": "diffusion_orpo"},
    {"name": "dmpo"},
    {"name": "hinge"},
    {"name": "ipo"},
    {"name": "sft"},
]


@pytest.mark.parametrize("objective", PAIRS, ids=lambda one: "-".join(map(str, one.values())))
def test_a_step_on_pairs(bench: Bench, objective: dict[str, Any]) -> None:
    engine, micros = engine_of(bench.config("image", "none", objective=objective, lora=LORA))
    assert waits_of(engine, micros).places == []


@pytest.mark.parametrize("scope", ["per_pair", "per_batch"])
def test_a_step_behind_a_safeguard(bench: Bench, scope: str) -> None:
    transforms = [{"name": "sdpo", "mu": 0.5, "scope": scope}]
    engine, micros = engine_of(bench.config("image", "none", transforms=transforms, lora=LORA))
    assert waits_of(engine, micros).places == []


def test_a_step_on_implied_noise_waits_once_for_its_walks(bench: Bench) -> None:
    objective = {"name": "inpo", "steps": 4}
    engine, micros = engine_of(bench.config("image", "none", objective=objective, lora=LORA))
    assert waits_of(engine, micros).places == [ONE_WALK]


def test_a_step_in_pieces(bench: Bench) -> None:
    """Of a loss that couples samples: all is scored, then differentiated micro-batch by micro-batch."""
    objective = {"name": "kto", "baseline": "midpoint"}
    config = bench.config("image", "none", objective=objective, train={"micro_batch": 2}, lora=LORA)
    engine, micros = engine_of(config)
    assert engine.chunked and len(micros) == 2
    assert waits_of(engine, micros).places == []


INVERSION = {"name": "inversion_dpo", "steps": 4, "beta": 2000}


@pytest.mark.parametrize("backward", ["direct", "deferred"])
def test_a_step_on_kept_paths(bench: Bench, backward: str) -> None:
    """The first step finds the paths and brings them to the host; all others take them as they are."""
    train = {"backward": backward, "micro_batch": 1, "batch": 2}
    config = bench.config("image", "none", objective=INVERSION, lora=LORA, train=train)
    engine, micros = engine_of(config)
    for name, parameter in engine.adapter.policy.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    compute_gradients(engine, micros, {}, 0)
    assert waits_of(engine, micros).places == []


@pytest.mark.parametrize(("name", "waits"), [("d3po", []), ("spo", [LABELS])])
def test_a_step_on_stored_paths(bench: Bench, name: str, waits: list[str]) -> None:
    model = {"generation": {"steps": 4, "guidance": 2.0, "eta": 1.0}}
    engine, _ = engine_of(bench.config("image", "none", model=model, lora=LORA))
    objective = bench.config("image", "none", objective={"name": name}).objective
    assert waits_of(replace(engine, objective=objective), stored_paths(engine)).places == waits


def test_a_step_on_segments(bench: Bench) -> None:
    bench.model["clips"] = {"adapter": "diffusion", "path": str(bench.folder / "modelscope"), **CLIPS}
    bench.data["clips"] = {"source": "jsonl", "path": str(bench.folder / "clips.jsonl")}
    objective = {"name": "densedpo", "beta": 2000}
    engine, micros = engine_of(
        bench.config("clips", "none", objective=objective, train={"batch": 4}, lora=LORA)
    )
    assert waits_of(engine, micros).places == [LABELS] * 2


def test_a_wait_is_found() -> None:
    """What the tests above look for, on a tensor that is sent and on one that is not."""
    device = torch.device("cpu")
    asked = {
        "float": lambda x: float(x[0]),
        "bool": lambda x: bool((x > 0).any()),
        "list": lambda x: x.tolist(),
        "mask": lambda x: x[x > 1],
        "index on the host": lambda x: x[torch.tensor([0])],
        "where": lambda x: torch.nonzero(x),
        "repeat": lambda x: x.repeat_interleave(x.long()),
        "equal": lambda x: torch.equal(x, x + 1),
        "copy": lambda x: x.cpu().tolist(),
        "computed": lambda x: int(x.exp().sum()),
    }
    for name, ask in asked.items():
        with followed([]) as waits:
            ask(torch.arange(3.0))
            assert not waits.places, name
            ask(torch.arange(3.0).to(device, non_blocking=True))
            assert len(waits.places) == 1, name
            ask(torch.arange(3.0, device=device))
            assert len(waits.places) == 2, name
    with followed([]) as waits:
        x = torch.arange(3.0).to(device, non_blocking=True)
        torch.where(x > 1, x, x[x.long()]).sum()
        torch.arange(3).to(device, non_blocking=True)
        assert not waits.places
        assert float(x.cpu()[0]) == 0 and len(waits.places) == 1  # a copy is on the host
        torch.arange(3).to(device)
        torch.tensor([1.0], device=device)
        assert len(waits.places) == 3
