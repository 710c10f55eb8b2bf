"""Whole runs: what they leave, exact resume, and settings that must not change the result."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Bench, largest_gap, losses, metrics, same_files, weights

from mmalign.config import RunConfig
from mmalign.training.run import run
from mmalign.training.setup import build_policy
from mmalign.types import UserError

LORA = {"rank": 4}
IMAGE_LORA = {"rank": 4, "init": "gaussian"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("bench"))
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def first(bench: Bench) -> Path:
    return run(bench.config("text", "first", data={"heldout": 4}, train={"eval_every": 2}))


def test_a_run_folder_holds_what_it_should(first: Path) -> None:
    names = {p.name for p in first.iterdir()} - {".lock"}
    assert names == {"config.yaml", "run.json", "metrics.jsonl", "checkpoints", "final"}
    record = json.loads((first / "run.json").read_text())
    assert record["status"] == "finished" and record["step"] == 4
    assert record["data"]["rows"] == 20 and record["data"]["heldout"] == 4
    assert any(note.startswith("reference: copy") for note in record["notes"])


def test_metrics_that_are_always_on(first: Path) -> None:
    lines = metrics(first)
    train = [line for line in lines if "loss" in line]
    assert [line["step"] for line in train] == [1, 2, 3, 4]
    wanted = {
        "reward/chosen",
        "reward/rejected",
        "reward/margin",
        "accuracy",
        "implicit_acc",
        "chosen_falling",
    }
    wanted |= {
        "logp/chosen",
        "logp_change/chosen",
        "logp_change/rejected",
        "length/chosen",
        "grad_norm",
        "lr",
    }
    assert wanted <= train[0].keys()
    held = [line for line in lines if "heldout/loss" in line]
    assert [line["step"] for line in held] == [0, 2, 4]
    assert held[0]["heldout/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert held[-1]["heldout/loss"] < math.log(2)


def test_image_run_logs_errors_and_accuracy_by_noise_level(bench: Bench) -> None:
    lines = metrics(run(bench.config("image", "image-metrics", lora=IMAGE_LORA)))
    names = {name for line in lines for name in line}
    assert {"error/chosen", "error/rejected", "reference_error/chosen", "reference_error/rejected"} <= names
    assert any(name.startswith("implicit_acc/t") for name in names)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)


RESUMES: dict[str, tuple[str, dict[str, Any]]] = {
    "text, full": ("text", {"train": {"micro_batch": 2}}),
    "text, LoRA with dropout": ("text", {"lora": {**LORA, "dropout": 0.2}, "train": {"micro_batch": 4}}),
    "text, KTO": ("text", {"objective": {"name": "kto"}, "train": {"micro_batch": 4}}),
    "image, full": ("image", {"train": {"micro_batch": 3}}),
    "image, LoRA": ("image", {"lora": IMAGE_LORA, "train": {"micro_batch": 2}}),
    "image, MaPO": ("image", {"objective": {"name": "mapo"}, "model": {"caption_dropout": 0.3}}),
}


@pytest.mark.parametrize("name", RESUMES)
def test_n_plus_m_steps_equal_n_stop_m_bit_for_bit(bench: Bench, name: str) -> None:
    """Stops in the middle of an epoch, with shuffling and accumulation; all of the checkpoint must agree."""
    kind, sections = RESUMES[name]
    slug = name.replace(" ", "").replace(",", "-")
    train = sections.get("train", {})

    def part(steps: int, output: str) -> RunConfig:
        changed = {**sections, "train": {**train, "steps": steps, "warmup_steps": 2}, "log": {"every": 3}}
        return bench.config(kind, f"{slug}-{output}", **changed)

    straight = run(part(5, "straight"))
    run(part(3, "resumed"))
    resumed = run(part(5, "resumed"))
    same_files(straight / "final", resumed / "final")
    step = "checkpoints/step-000005"
    for file in ("model.safetensors", "optimizer.safetensors", "optimizer.json", "trainer.json"):
        assert (straight / step / file).read_bytes() == (resumed / step / file).read_bytes(), file
    assert losses(straight)[0] == losses(resumed)[0]


def test_a_finished_run_is_left_alone(first: Path, bench: Bench) -> None:
    before = {p: p.read_bytes() for p in first.rglob("*") if p.is_file()}
    run(bench.config("text", "first", data={"heldout": 4}, train={"eval_every": 2}))
    assert {p: p.read_bytes() for p in first.rglob("*") if p.is_file()} == before


def test_another_config_may_not_go_on(first: Path, bench: Bench) -> None:
    with pytest.raises(UserError, match=r"objective.beta was 0.1, is 0.2"):
        run(bench.config("text", "first", data={"heldout": 4}, objective={"name": "dpo", "beta": 0.2}))


SAME: dict[str, tuple[str, dict[str, Any], float]] = {
    "micro-batches": ("text", {"train": {"micro_batch": 1}}, 2e-6),
    "chunked backward": ("text", {"train": {"backward": "chunked", "micro_batch": 2}}, 2e-6),
    "checkpointing": ("text", {"train": {"checkpointing": True}}, 1e-6),
    "cached reference": ("text", {"reference": {"name": "cached"}}, 2e-6),
    "image micro-batches": ("image", {"train": {"micro_batch": 1}}, 2e-6),
    "image chunked backward": ("image", {"train": {"backward": "chunked", "micro_batch": 3}}, 2e-6),
    "image checkpointing": ("image", {"train": {"checkpointing": True}}, 1e-6),
}


@pytest.mark.parametrize("name", SAME)
def test_settings_that_must_not_change_the_result(bench: Bench, name: str) -> None:
    """Compared with the plain run after three steps of plain SGD-sized updates: a wrong scale of one
    micro-batch would show at the first step."""
    kind, sections, bound = SAME[name]
    common = {"steps": 3, "lr": 1e-4, "eps": 1e-3}
    plain = run(bench.config(kind, f"plain-{kind}", train=common))
    changed = {**sections, "train": {**common, **sections.get("train", {})}}
    other = run(bench.config(kind, f"same-{name.replace(' ', '-')}", **changed))
    # beta 200 turns a rounding of 1e-7 in an error near 1 into 1e-5 of the loss
    assert losses(other) == pytest.approx(losses(plain), abs=2e-6 if kind == "text" else 1e-5)
    assert largest_gap(weights(other, 3), weights(plain, 3)) < bound


@pytest.mark.parametrize("kind", ["text", "image"])
def test_lora_off_equals_a_copied_reference(bench: Bench, kind: str) -> None:
    """The same three runs: adapters switched off, a frozen copy, and the base given by its path."""
    lora = LORA if kind == "text" else IMAGE_LORA
    found = []
    for name, path in (("lora_off", None), ("copy", None), ("path", bench.model[kind]["path"])):
        reference = {"name": name, "path": path}
        done = run(bench.config(kind, f"{kind}-ref-{name}", lora=lora, reference=reference))
        found.append((losses(done), weights(done, 4)))
    for these, them in found[1:]:
        assert these == found[0][0]
        assert largest_gap(them, found[0][1]) == 0


def test_cached_reference_on_fixed_draws(bench: Bench) -> None:
    """Two noise draws per sample used in turn: live and cached reference agree, and the cache is reused."""
    train = {"draws": "fixed:2", "steps": 6}
    live = run(bench.config("image", "draws-live", lora=IMAGE_LORA, train=train))
    cached = run(
        bench.config("image", "draws-cached", lora=IMAGE_LORA, train=train, reference={"name": "cached"})
    )
    assert losses(cached) == pytest.approx(losses(live), abs=1e-5)
    assert largest_gap(weights(cached, 6), weights(live, 6)) < 1e-5


def test_training_goes_on_from_a_saved_adapter(bench: Bench) -> None:
    """The reference is then that adapter, frozen: log-ratios start at 0 although the weights do not."""
    first = run(bench.config("text", "adapter-one", lora=LORA))
    again = bench.config("text", "adapter-two", lora={**LORA, "path": str(first / "final")})
    second = run(again)
    assert losses(second)[0] == pytest.approx(math.log(2), abs=1e-6)
    notes = json.loads((second / "run.json").read_text())["notes"]
    assert "reference: initial_adapter" in notes
    assert largest_gap(weights(second, 4), weights(first, 4)) > 0


def test_a_saved_adapter_may_be_compared_with_its_base(bench: Bench) -> None:
    first = run(bench.config("text", "ahead-one", lora=LORA))
    lora, reference = {**LORA, "path": str(first / "final")}, {"name": "lora_off"}
    second = run(bench.config("text", "ahead-two", lora=lora, reference=reference))
    assert losses(second)[0] != pytest.approx(math.log(2), abs=1e-6)
    notes = json.loads((second / "run.json").read_text())["notes"]
    assert any(note.startswith("reference lora_off: largest log-ratio") for note in notes)


def test_one_forward_serves_a_weighted_sum(bench: Bench) -> None:
    objective = [{"name": "dpo"}, {"name": "sft", "weight": 0.5}]
    lines = metrics(run(bench.config("text", "sum", objective=objective)))
    first = lines[0]
    assert first["loss"] == pytest.approx(first["dpo/loss"] + 0.5 * first["sft/loss"], rel=0.2)
    assert first["dpo/loss"] == pytest.approx(math.log(2), abs=1e-5)


def test_precision_bf16_trains_and_starts_at_log_two(bench: Bench) -> None:
    for kind, lora in (("text", LORA), ("image", IMAGE_LORA)):
        done = run(bench.config(kind, f"bf16-{kind}", lora=lora, train={"precision": "bf16"}))
        assert losses(done)[0] == pytest.approx(math.log(2), abs=1e-6)
        assert all(t.dtype == torch.float32 for t in weights(done, 4).values())


@pytest.mark.parametrize("kind", ["text", "image"])
def test_bf16_freezes_a_base_in_bf16_and_trains_float32(bench: Bench, kind: str) -> None:
    config = bench.config(kind, "unused", lora=LORA, train={"precision": "bf16"})
    policy = build_policy(config, torch.device("cpu")).policy
    types = {(p.requires_grad, p.dtype) for p in policy.parameters()}
    assert types == {(True, torch.float32), (False, torch.bfloat16)}
    full = build_policy(bench.config(kind, "unused", train={"precision": "bf16"}), torch.device("cpu")).policy
    assert {(p.requires_grad, p.dtype) for p in full.parameters()} == {(True, torch.float32)}


def test_kto_on_pairs_splits_them_and_says_so(bench: Bench) -> None:
    done = run(bench.config("text", "kto", objective={"name": "kto"}, train={"batch": 8}))
    notes = json.loads((done / "run.json").read_text())["notes"]
    assert any("split 24 pairs into 48 labelled responses" in note for note in notes)
    assert losses(done)[0] == pytest.approx(0.5, abs=1e-6)


def test_unequal_weights_change_the_loss(bench: Bench) -> None:
    """Pair weights 1 to 3 in the data: the same rows with equal weights give other gradients."""
    rows = [json.loads(line) for line in Path(bench.data["text"]["path"]).read_text().splitlines()]
    flat = bench.folder / "flat.jsonl"
    flat.write_text("".join(json.dumps({**row, "weight": 1.0}) + "\n" for row in rows))
    weighted = run(bench.config("text", "weights-weighted"))
    plain = run(bench.config("text", "weights-plain", data={"path": str(flat)}))
    assert largest_gap(weights(weighted, 4), weights(plain, 4)) > 1e-5


@pytest.mark.parametrize(("batch", "counts"), [(1, False), (4, True)])
def test_weights_are_shares_of_a_step(bench: Bench, batch: int, counts: bool) -> None:
    """A step of one pair divides by its only weight, which is said; in larger ones weights shift the step,
    and equal ones, however large, do not."""
    path = Path(bench.data["image"]["path"])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    folders = []
    for name, light, heavy in (("plain", 1.0, 1.0), ("weighted", 1.0, 10.0), ("equal", 10.0, 10.0)):
        made = path.with_name(f"{name}.jsonl")
        lines = [json.dumps({**row, "weight": heavy if i % 2 else light}) for i, row in enumerate(rows)]
        made.write_text("\n".join(lines) + "\n")
        train = {"steps": 3, "batch": batch, "micro_batch": 1}
        folder = run(bench.config("image", f"{name}-{batch}", data={"path": str(made)}, train=train))
        notes = json.loads((folder / "run.json").read_text())["notes"]
        told = [note for note in notes if "different weights, which do nothing with train.batch=1" in note]
        assert len(told) == (name == "weighted" and not counts)
        folders.append(folder)
    plain, weighted, equal = folders
    assert (largest_gap(weights(plain, 3), weights(weighted, 3)) > 1e-5) is counts
    assert losses(equal) == pytest.approx(losses(plain), rel=1e-5)
