"""Dropout, evaluation mode, precision and the environment: what must not leak into the numbers."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_lm
from tiny_runs import Bench, largest_gap, losses, metrics, weights

from mmalign.training import step
from mmalign.training.run import run
from mmalign.types import LogProbs, UserError

LORA = {"rank": 4, "dropout": 0.5}
KTO = {"name": "kto"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("modes"))
    torch.set_num_threads(threads)


@pytest.mark.parametrize("family", ["gpt2", "bloom", "starcoder2"])
def test_the_models_own_dropout_is_off_unless_asked_for(bench: Bench, family: str) -> None:
    """These families keep their rates under different names; with any of them on, the loss is not ln 2."""
    rates = {
        "gpt2": {"attn_pdrop": 0.3, "resid_pdrop": 0.3, "embd_pdrop": 0.3},
        "bloom": {"hidden_dropout": 0.3, "attention_dropout": 0.3, "n_head": 4, "n_layer": 2},
        "starcoder2": {"residual_dropout": 0.3, "embedding_dropout": 0.3, "attention_dropout": 0.3},
    }
    tiny_lm.FAMILIES.setdefault(family, {})
    path = tiny_lm.save_tiny(bench.folder / family, family, **rates[family])
    for checkpointing in (False, True):
        train = {"checkpointing": checkpointing, "steps": 1}
        found = run(bench.config("text", f"{family}-{checkpointing}", model={"path": path}, train=train))
        assert losses(found)[0] == pytest.approx(math.log(2), abs=1e-6)
    noisy = run(
        bench.config("text", f"{family}-on", model={"path": path}, train={"dropout": True, "steps": 1})
    )
    assert abs(losses(noisy)[0] - math.log(2)) > 1e-4


def test_held_out_rows_are_scored_without_dropout(bench: Bench) -> None:
    """A learning rate too small to change a float32 weight: both evaluations see the same model."""
    train = {"lr": 1e-30, "steps": 2}
    done = run(bench.config("text", "heldout", lora=LORA, data={"heldout": 6}, train=train))
    first, last = (line["heldout/logp/chosen"] for line in metrics(done) if "heldout/loss" in line)
    assert first == last


def test_both_passes_of_a_chunked_step_see_the_same_dropout(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = step._product, []

    def watched(scored: LogProbs, leaf: LogProbs, begin: int) -> torch.Tensor:
        seen.append(float((scored.values - leaf.values).detach().abs().max()))
        return original(scored, leaf, begin)

    monkeypatch.setattr(step, "_product", watched)
    run(bench.config("text", "two-passes", lora=LORA, objective=KTO, train={"batch": 8, "micro_batch": 2}))
    assert len(seen) == 16 and max(seen) == 0


@pytest.mark.parametrize("reference", ["lora_off", "copy", "cached"])
def test_kto_starts_at_one_half_in_bf16(bench: Bench, reference: str) -> None:
    """Two roles, one of them detached: policy and reference must be scored in the same batches."""
    views = {"redraw": "once"} if reference == "cached" else {}
    config = bench.config(
        "text",
        f"kto-{reference}",
        lora={"rank": 4},
        objective=KTO,
        reference={"name": reference},
        views=views,
        train={"precision": "bf16", "batch": 8},
    )
    assert losses(run(config))[0] == pytest.approx(0.5, abs=1e-3 if reference == "cached" else 1e-6)


def test_a_launchers_variables_do_not_change_the_run(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = run(bench.config("text", "environment-plain"))
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    again = run(bench.config("text", "environment-bf16"))
    assert losses(again) == losses(plain)
    assert largest_gap(weights(again, 4), weights(plain, 4)) == 0
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
    with pytest.raises(UserError, match="train.micro_batch"):
        run(bench.config("text", "environment-steps"))


def test_equal_weights_draw_equally(bench: Bench) -> None:
    """24 rows and 3: without weights 24 of 27 samples come from the first, with 1 and 1 about half."""
    small = bench.folder / "small.jsonl"
    lines = Path(bench.data["text"]["path"]).read_text().splitlines()[:3]
    rows = [json.loads(line) | {"id": f"small-{i}"} for i, line in enumerate(lines)]
    small.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def drawn(**weight: Any) -> float:
        from mmalign.training.rows import Console, World, load_data

        data = [{**bench.data["text"], **weight}, {"source": "jsonl", "path": str(small), **weight}]
        config = bench.config("text", "unused", data=data)
        world = World(0, 1, torch.device("cpu"))
        order = load_data(config, world, Console(world, False, quiet=True)).order(config)
        places = [place for number in range(9) for place in order.step(number)]
        return sum(place.source == 1 for place in places) / len(places)

    assert drawn() == pytest.approx(3 / 27, abs=0.02)
    assert drawn(weight=1.0) == pytest.approx(0.5, abs=0.05)


def test_rows_left_out_are_on_record(bench: Bench) -> None:
    broken = bench.folder / "broken.jsonl"
    text = Path(bench.data["text"]["path"]).read_text()
    broken.write_text(text + '{"prompt": "x", "chosen": "", "rejected": "y"}\n')
    done = run(bench.config("text", "left-out", data={"path": str(broken), "on_error": "skip"}))
    (line,) = [json.loads(one) for one in (done / "skipped.jsonl").read_text().splitlines()]
    assert line["step"] == 0 and "broken.jsonl row 25" in line["reason"]
    assert json.loads((done / "run.json").read_text())["data"]["left_out"] == 1


def test_a_failed_run_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmalign.training import run as module

    def fail(*arguments: Any) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(module, "compute_gradients", fail)
    config = bench.config("text", "failed")
    with pytest.raises(MemoryError):
        run(config)
    assert json.loads((Path(config.output) / "run.json").read_text())["status"] == "failed"
