"""What a run does when something goes wrong: NaN, signals, rows that break late, wrong models."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import Bench, largest_gap, losses, metrics, same_files, weights

from mmalign.training import run as module
from mmalign.training.run import Stopped, run
from mmalign.types import UserError


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield Bench(tmp_path_factory.mktemp("faults"))
    torch.set_num_threads(threads)


def rows(bench: Bench, name: str, margins: list[float]) -> str:
    """One row per step: with batch 1 and these margins, the steps that fail are known."""
    lines = []
    for i, margin in enumerate(margins):
        row = {"id": f"r{i}", "prompt": f"why {i}?", "chosen": " yes", "rejected": " no", "margin": margin}
        lines.append(json.dumps(row))
    path = bench.folder / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def test_a_step_with_nan_is_skipped_named_and_changes_nothing(bench: Bench) -> None:
    path = rows(bench, "poison", [0.3, 0.0, 0.0])
    common: dict[str, Any] = {"data": {"path": path}, "objective": {"name": "own:Poisoned"}}
    steps = {"batch": 1, "lr": 1e-3, "save_every": 1, "keep": 10}
    done = run(bench.config("text", "nan", train={**steps, "steps": 3}, **common))
    record = json.loads((done / "run.json").read_text())
    assert record["skipped"] == {"steps with NaN or inf": 1}
    bad = next(line["step"] for line in metrics(done) if "loss" not in line)
    states = [load_file(done / "checkpoints" / f"step-{s:06d}" / "objective.safetensors") for s in (1, 2, 3)]
    assert float(states[-1]["good_steps"]) == 2
    if bad > 1:
        assert largest_gap(weights(done, bad), weights(done, bad - 1)) == 0
        before, after = (done / "checkpoints" / f"step-{s:06d}" for s in (bad - 1, bad))
        ours = (before / "optimizer.safetensors").read_bytes()
        assert ours == (after / "optimizer.safetensors").read_bytes()
    others = [s for s in (2, 3) if s != bad]
    assert all(largest_gap(weights(done, s), weights(done, s - 1)) > 0 for s in others)


def test_the_skipped_step_names_its_samples(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    path = rows(bench, "named", [0.3, 0.0])
    train = {"batch": 2, "steps": 1}
    run(bench.config("text", "named", data={"path": path}, objective={"name": "own:Poisoned"}, train=train))
    printed = capsys.readouterr().err
    assert "step 1 skipped" in printed and "r0" in printed and "r1" in printed


def test_too_many_bad_steps_stop_the_run(bench: Bench) -> None:
    path = rows(bench, "all-bad", [0.3, 0.3, 0.3])
    train = {"batch": 1, "steps": 9, "max_bad_steps": 3}
    config = bench.config(
        "text", "all-bad", data={"path": path}, objective={"name": "own:Poisoned"}, train=train
    )
    with pytest.raises(RuntimeError, match="3 in a row"):
        run(config)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_at_the_next_step_and_the_run_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, code: int
) -> None:
    """The signal arrives in the middle of step 3; what follows equals a run that was never stopped."""
    straight = run(bench.config("text", f"straight-{code}", train={"steps": 6, "micro_batch": 2}))
    original, seen = module.compute_gradients, []

    def interrupt(*arguments: Any) -> Any:
        seen.append(1)
        if len(seen) == 3:
            os.kill(os.getpid(), number)
        return original(*arguments)

    config = bench.config("text", f"stopped-{code}", train={"steps": 6, "micro_batch": 2})
    monkeypatch.setattr(module, "compute_gradients", interrupt)
    with pytest.raises(Stopped) as stop:
        run(config)
    assert stop.value.code == code
    folder = Path(config.output)
    assert [p.name for p in (folder / "checkpoints").iterdir()] == ["step-000003"]
    assert json.loads((folder / "run.json").read_text())["status"] == "stopped"
    monkeypatch.setattr(module, "compute_gradients", original)
    run(config)
    same_files(straight / "final", folder / "final")
    assert losses(straight) == losses(folder)
    assert json.loads((folder / "run.json").read_text())["resumed_at"] == [3]


def test_a_row_that_breaks_after_its_first_check(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """on_error skip: the row weighs nothing and is listed; on_error stop: the run ends and names it."""
    from mmalign.training import rows as training_rows

    checked = training_rows.RunData.admit

    def admit_then_break(self: Any, adapter: Any, config: Any, console: Any) -> None:
        checked(self, adapter, config, console)
        picture = Path(bench.data["image"]["path"]).parent / "chosen-0.png"
        content.append(picture.read_bytes())
        picture.write_bytes(content[0][:60])

    content: list[bytes] = []
    picture = Path(bench.data["image"]["path"]).parent / "chosen-0.png"
    monkeypatch.setattr(training_rows.RunData, "admit", admit_then_break)
    try:
        steps = {"steps": 3, "batch": 4}
        done = run(bench.config("image", "late-skip", data={"on_error": "skip"}, train=steps))
        listed = [json.loads(line) for line in (done / "skipped.jsonl").read_text().splitlines()]
        assert listed and all("chosen-0.png" in line["reason"] for line in listed)
        assert all(torch.isfinite(torch.tensor(losses(done))))
        picture.write_bytes(content[0])
        with pytest.raises(UserError, match=r"chosen-0\.png"):
            run(bench.config("image", "late-stop", train=steps))
    finally:
        picture.write_bytes(content[0])


def test_only_broken_checkpoints_are_not_silently_started_anew(bench: Bench) -> None:
    config = bench.config("text", "broken", train={"steps": 2})
    folder = run(config)
    weight_file = folder / "checkpoints" / "step-000002" / "model.safetensors"
    weight_file.write_bytes(weight_file.read_bytes()[:-8])
    with pytest.raises(UserError, match="only broken checkpoints"):
        run(bench.config("text", "broken", train={"steps": 3}))


def test_a_reference_with_another_tokenizer_is_refused(bench: Bench) -> None:
    from adapters import tiny_lm

    other = tiny_lm.save_tiny(bench.folder / "other", template=None)
    reference = {"name": "path", "path": other}
    with pytest.raises(UserError, match="tokenizer"):
        run(bench.config("text", "other-run", reference=reference))
    assert not (bench.folder / "other-run").exists()


def test_a_batch_with_a_wrong_head_stops_at_the_first_check(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores that are not the model's own would train something else without any sign."""
    from mmalign.adapters import _sequences

    honest = _sequences.token_log_probs
    monkeypatch.setattr(_sequences, "token_log_probs", lambda *a: honest(*a) * 1.01)
    with pytest.raises(RuntimeError, match="first-batch check"):
        run(bench.config("text", "wrong-head"))


def test_a_reference_that_differs_at_the_start_stops_the_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mmalign.training import setup

    make = setup.make_switch

    def disturbed(name: str, adapter: Any, *rest: Any) -> Any:
        switch = make(name, adapter, *rest)
        with switch() as model, torch.no_grad():
            next(iter(model.parameters())).mul_(1.1)
        return switch

    monkeypatch.setattr(setup, "make_switch", disturbed)
    with pytest.raises(RuntimeError, match="log-ratios must be 0"):
        run(bench.config("text", "disturbed"))
