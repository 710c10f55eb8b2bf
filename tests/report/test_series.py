"""metrics.jsonl as curves."""

import math
from pathlib import Path

import pytest

from mmalign.report.series import read_metrics
from mmalign.training.record import MetricsLog
from mmalign.types import UserError


def test_train_and_heldout_are_kept_apart(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0) as log:
        log.write(0, {"heldout/loss": 0.7})
        for step in range(1, 21):
            log.write(step, {"loss": float(step), "word": "text"})
        log.write(20, {"heldout/loss": 0.5, "heldout/acc": 1})
    metrics = read_metrics(tmp_path / "metrics.jsonl")
    assert metrics.names == ["acc", "loss"]
    loss, held = metrics.train["loss"], metrics.heldout["loss"]
    assert (loss.first, loss.last, loss.start, loss.end) == (1.0, 20.0, 1.5, 19.5)  # two of twenty lines
    assert (held.steps, held.values) == ([0, 20], [0.7, 0.5])
    assert metrics.at_end("loss") == (0.5, "held-out") and metrics.at_end("nothing") is None


def test_values_that_are_not_finite_are_listed_apart(tmp_path: Path) -> None:
    with MetricsLog(tmp_path, 0) as log:
        for step, value in enumerate([1.0, math.inf, math.nan, 2.0], 1):
            log.write(step, {"loss": value})
    loss = read_metrics(tmp_path / "metrics.jsonl").train["loss"]
    assert (loss.steps, loss.values, loss.broken) == ([1, 4], [1.0, 2.0], [2, 3])


def test_missing_file_and_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_metrics(path).names == []
    path.write_bytes(b'{"step": 1, "loss": 2}\n{"step": 2, "lo')
    assert read_metrics(path).train["loss"].values == [2.0]


@pytest.mark.parametrize("line", [b"{", b"[]", b'{"loss": 1}', b'{"step": 2, "x": 1' + b"0" * 400 + b"}"])
def test_other_lines_are_refused(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1, "loss": 2}\n' + line + b"\n")
    with pytest.raises(UserError, match="metrics.jsonl row 2: not a metrics line"):
        read_metrics(path)
