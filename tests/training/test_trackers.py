"""Trackers get every line of metrics.jsonl once, also when a run stops, goes on or a service fails."""

import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from accelerate.tracking import TensorBoardTracker, get_available_trackers
from tiny_runs import Bench, metrics

from mmalign.config import from_tree
from mmalign.training import checkups
from mmalign.training import run as loop
from mmalign.training.run import run
from mmalign.training.trackers import hyperparameters
from mmalign.types import UserError

accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

Points = dict[str, list[tuple[int, float]]]
TRACKED = {"log": {"trackers": ["tensorboard"]}}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("bench"))


def shown(output: Path) -> Points:
    """Every scalar in the event files of a run, by name, in the order of steps."""
    points: Points = defaultdict(list)
    for file in (output / "tensorboard").glob("events*"):
        events = accumulator.EventAccumulator(str(file), size_guidance={accumulator.SCALARS: 0})
        events.Reload()
        for name in events.Tags()["scalars"]:
            points[name] += [(event.step, event.value) for event in events.Scalars(name)]
    return {name: sorted(pairs) for name, pairs in points.items()}


def logged(output: Path) -> Points:
    """Every number in metrics.jsonl, by name."""
    points: Points = defaultdict(list)
    for line in metrics(output):
        for name, value in line.items():
            if name != "step":
                points[name].append((int(line["step"]), float(value)))
    return dict(points)


def assert_equal(output: Path) -> None:
    """The event files hold metrics.jsonl, no more and no less; events are float32."""
    ours, theirs = logged(output), shown(output)
    assert len(ours) > 5 and ours.keys() == theirs.keys()
    for name, pairs in ours.items():
        assert [step for step, _ in pairs] == [step for step, _ in theirs[name]], name
        values = [value for _, value in theirs[name]]
        assert values == pytest.approx([value for _, value in pairs], rel=1e-6, nan_ok=True), name


def stop_after(patch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the run fail in the step after `steps` more."""
    done = 0
    original = loop.compute_gradients

    def compute(*arguments: Any) -> Any:
        nonlocal done
        if done == steps:
            raise KeyError("power cut")
        done += 1
        return original(*arguments)

    patch.setattr(loop, "compute_gradients", compute)


def test_event_files_hold_the_log_and_the_config(bench: Bench) -> None:
    data = {"heldout": 4}
    config = bench.config("text", "whole", data=data, train={"steps": 4, "eval_every": 2}, **TRACKED)
    output = run(config)
    assert_equal(output)
    assert {step for pairs in shown(output).values() for step, _ in pairs} == {0, 1, 2, 3, 4}
    (file,) = (output / "tensorboard").glob("*/hparams.yml")
    assert "train.lr: 0.001\n" in file.read_text() and "objective.name: dpo\n" in file.read_text()


@pytest.mark.parametrize("save_every", [2, 100])
def test_a_run_that_goes_on_sends_each_line_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, save_every: int
) -> None:
    config = bench.config("text", f"on-{save_every}", train={"steps": 5, "save_every": save_every}, **TRACKED)
    with monkeypatch.context() as patch:
        stop_after(patch, 3)  # the checkpoint, if there is one, is of step 2: step 3 comes twice
        with pytest.raises(KeyError, match="power cut"):
            run(config)
    output = Path(config.output)
    assert shown(output)["loss"][-1][0] == 3
    run(config)
    assert [line["step"] for line in metrics(output)] == [1, 2, 3, 4, 5]
    assert_equal(output)
    assert len(list((output / "tensorboard").glob("*/hparams.yml"))) == 1


def test_lines_from_before_it_was_asked_for_are_sent_too(bench: Bench) -> None:
    run(bench.config("text", "late", train={"steps": 2}))
    output = run(bench.config("text", "late", train={"steps": 4}, **TRACKED))
    assert_equal(output)
    run(bench.config("text", "late", train={"steps": 5}))  # without
    run(bench.config("text", "late", train={"steps": 6}, **TRACKED))
    assert_equal(output)


def test_a_tracker_that_fails_is_named_and_catches_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    original = TensorBoardTracker.log

    def fail_at_two(self: Any, values: dict[str, float], step: int) -> None:
        if step == 2:
            raise OSError("service unavailable")
        original(self, values, step)

    with monkeypatch.context() as patch:
        patch.setattr(TensorBoardTracker, "log", fail_at_two)
        output = run(bench.config("text", "fails", train={"steps": 3}, **TRACKED))
    record = json.loads((output / "run.json").read_text())
    assert record["status"] == "finished"
    assert (
        "warning: tracker tensorboard failed at step 2 (service unavailable) and is left out"
        in record["notes"]
    )
    assert [step for step, _ in shown(output)["loss"]] == [1]
    assert [line["step"] for line in metrics(output)] == [1, 2, 3]
    run(bench.config("text", "fails", train={"steps": 4}, **TRACKED))
    assert_equal(output)


def test_numbers_that_are_not_finite_arrive(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    original = checkups.evaluate
    monkeypatch.setattr(
        checkups, "evaluate", lambda *given: {**original(*given), "odd/a": math.nan, "odd/b": -math.inf}
    )
    tree = {"data": {"heldout": 4}, "train": {"steps": 1}, **TRACKED}
    output = run(bench.config("text", "odd", **tree))
    assert metrics(output)[0]["odd/a"] == "nan"
    points = shown(output)
    assert math.isnan(points["odd/a"][0][1]) and points["odd/b"][0][1] == -math.inf
    (output / "trackers.json").write_text('{"run": "x", "sent": {}}')  # as if nothing had been sent
    for file in (output / "tensorboard").glob("events*"):
        file.unlink()
    run(bench.config("text", "odd", **{**tree, "train": {"steps": 2}}))
    assert_equal(output)


def test_without_trackers_nothing_is_left(bench: Bench) -> None:
    output = run(bench.config("text", "plain", train={"steps": 1}))
    assert not (output / "trackers.json").exists() and not (output / "tensorboard").exists()


# ---------------------------------------------------------------- refusals


def refused(bench: Bench, name: str, *trackers: str) -> str:
    """The message; the model is nowhere, so that it would be named if it were looked at."""
    config = bench.config("text", name, model={"path": "/nowhere"}, log={"trackers": list(trackers)})
    with pytest.raises(UserError) as caught:
        run(config)
    assert not Path(config.output).exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_that_nobody_knows(bench: Bench) -> None:
    message = refused(bench, "r1", "tensorbord")
    assert message.startswith("log.trackers: 'tensorbord' is no tracker") and "tensorboard, " in message
    assert "'all' is no tracker" in refused(bench, "r1", "all")


def test_a_package_that_is_not_installed_is_named(bench: Bench) -> None:
    assert "comet_ml" not in {str(name) for name in get_available_trackers()}
    message = refused(bench, "r2", "comet_ml")
    assert message == "log.trackers: comet_ml is not installed; pip install comet-ml, or leave it out"


def test_a_name_given_twice(bench: Bench) -> None:
    tree = bench.tree("text", "r3", log={"trackers": ["tensorboard", "tensorboard"]})
    with pytest.raises(UserError, match=r"test: log\.trackers: each name once"):
        from_tree(tree, "test")


def test_a_tracker_that_cannot_start(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: Any) -> None:
        raise RuntimeError("no login\nlong text")

    monkeypatch.setattr(TensorBoardTracker, "start", start)
    with pytest.raises(UserError, match=r"^log\.trackers: tensorboard could not start \(no login\); mend"):
        run(bench.config("text", "r4", **TRACKED))


def test_a_broken_record_is_refused(bench: Bench) -> None:
    output = run(bench.config("text", "r5", train={"steps": 1}, **TRACKED))
    (output / "trackers.json").write_text("[]")
    with pytest.raises(UserError, match=r"trackers\.json: not a record of what trackers hold"):
        run(bench.config("text", "r5", train={"steps": 2}, **TRACKED))


def test_hyperparameters_are_flat_and_plain(bench: Bench) -> None:
    flat = hyperparameters(bench.config("text", "h", train={"steps": 4}))
    assert flat["objective.name"] == "dpo" and flat["train.steps"] == 4 and flat["log.progress"] is False
    assert flat["lora"] == "null" and flat["train.betas"] == "[0.9, 0.999]"
    assert all(isinstance(value, bool | int | float | str) for value in flat.values())
