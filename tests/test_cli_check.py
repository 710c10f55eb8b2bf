"""`mmalign check`: exit codes, what it prints, and that it writes only where it is told to."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml
from bad_inputs import GOOD, write_rows
from cli_runs import assert_refused, call, listing

import mmalign
from mmalign.cli import main
from mmalign.types import UserError

if TYPE_CHECKING:
    from training.tiny_runs import Bench

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Own:
    """A source of rows without any option, test_cli_check:Own; two of its rows cannot be used."""

    def records(self) -> Iterator[tuple[str, dict[str, str] | UserError]]:
        """Eight rows."""
        for number in range(6):
            yield (
                f"own row {number}",
                {"prompt": f"say {number}", "chosen": " a b", "rejected": f" c {number}"},
            )
        yield "own row 6", {"prompt": "say 6", "chosen": " a b", "rejected": ""}
        yield "own row 7", UserError("own row 7: is not there")


@pytest.fixture
def config(bench: Bench, work: Path) -> Path:
    """A sound run on ./pairs.jsonl that would write into ./out and ./cache."""
    tree = bench.tree("text", "", train={"batch": 4}) | {"output": "out", "cache": "cache"}
    tree["data"] = {"source": "jsonl", "path": "pairs.jsonl"}
    (work / "config.yaml").write_text(yaml.safe_dump(tree))
    return work / "config.yaml"


def test_sound_rows(capsys: Capture, config: Path, work: Path) -> None:
    before = listing(work)
    called = call(capsys, "check", config)
    assert called.code == 0, called.err
    assert listing(work) == before, "nothing is written"
    for words in (
        "reference: copy",
        "training: 'pairs.jsonl', 8 rows",
        "can be used: 8 training",
        "chosen    response",
        "sample ",
        f"⟦{GOOD['chosen']}",
        "loss 0.6931; a policy equal to its reference has 0.6931 = ln 2",
        "reward margin 0",
        "weights that train",
        "no findings: every row can be used",
    ):
        assert words in called.out, words


def test_findings_end_with_code_1(capsys: Capture, config: Path, work: Path) -> None:
    rows = [GOOD | {"id": i, "prompt": f"Say {i}."} for i in range(8)]
    bad = [GOOD | {"id": 8, "chosen": "a\x1b[2J<|im_end|>"}, GOOD | {"id": 9, "rejected": " "}, "{"]
    lines = [row if isinstance(row, str) else json.dumps(row) for row in [*rows, *bad]]
    (work / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    write_rows(work / "held.jsonl", [GOOD | {"prompt": "Say 3."}, GOOD | {"prompt": "Say 20."}])
    held = ["heldout={source: jsonl, path: held.jsonl}", "data.on_error=skip"]
    called = call(capsys, "check", config, *held)
    assert called.code == 1 and "mmalign: " not in called.err
    out = called.out
    assert "4 findings:" in out
    assert out.count("1 training row cannot be used: ") == 3
    assert (
        "held-out rows whose sample is in training: 1: held-out held.jsonl row 1, training pairs.jsonl row 4"
        in out
    )
    assert "rows: pairs.jsonl row 9" in out and "training: pairs.jsonl row 9" in out and "…" not in out
    assert "\x1b" not in out, "data cannot steer the terminal"
    assert not (work / "out").exists() and not (work / "cache").exists()


def test_too_few_good_rows_are_a_finding_below_the_tables(capsys: Capture, config: Path) -> None:
    called = call(capsys, "check", config, "train.batch=9")
    assert called.code == 1 and "mmalign: " not in called.err
    assert "can be used: 8 training" in called.out and "chosen    response" in called.out
    assert "1 finding:" in called.out and "no step can be made: train.batch 9 is larger" in called.out
    assert "without the rows" not in called.out


def test_a_source_of_ones_own(capsys: Capture, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the option on_error, too, every row is looked at."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    called = call(capsys, "check", config, "data.source=test_cli_check:Own")
    assert called.code == 1, called.err
    assert "training: Own, 8 rows" in called.out and "can be used: 6 training" in called.out
    assert "2 findings:" in called.out and "training: own row 7: is not there" in called.out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("train.lr=-1",), ("train.lr", "-1")),
        (("data.path=absent.jsonl",), ("absent.jsonl",)),
        (("objective.name=mapo",), ("mapo", "error")),
        (("model.path=absent",), ("absent",)),
        (("--output", "config.yaml"), ("config.yaml", "is a file")),
        (("--output", "."), ("is not empty",)),
    ],
)
def test_mistakes_in_the_config_end_with_code_2(
    capsys: Capture, config: Path, work: Path, argv: tuple[str, ...], words: tuple[str, ...]
) -> None:
    before = listing(work)
    assert_refused(call(capsys, "check", config, *argv), words)
    assert listing(work) == before


def test_several_processes_are_refused(
    capsys: Capture, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert_refused(call(capsys, "check", config), ("one process, not in 2",))


def test_output(capsys: Capture, config: Path, work: Path) -> None:
    called = call(capsys, "check", config, "--output", "seen")
    assert called.code == 0 and called.out.endswith("seen/report.json\n")
    report = json.loads((work / "seen" / "report.json").read_text())
    assert report["findings"] == [] and report["usable"] == {"training": 8}
    assert report["trial"]["loss"] == pytest.approx(0.6931, abs=1e-4)
    for number, sample in enumerate(report["samples"]):
        text = (work / "seen" / f"sample-{number}" / "chosen-0.txt").read_text()
        assert f"⟦{sample['responses'][0]['scored']}⟧" in text
    assert_refused(call(capsys, "check", config, "--output", "seen"), ("seen", "is not empty"))


def test_what_is_scored_is_coloured_on_a_terminal(
    capsys: Capture, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["check", str(config)]) == 0
    out = capsys.readouterr().out
    assert "⟦" not in out and f"\x1b[1;32m{GOOD['chosen']}" in out


def test_as_a_function(config: Path) -> None:
    found = mmalign.check(config, "train.batch=2")
    assert found.sound and found.trial is not None and found.trial.samples == 2
    with pytest.raises(UserError, match="overrides apply to a config file"):
        mmalign.check(mmalign.load_config(config), "train.batch=2")
