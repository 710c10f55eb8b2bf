"""Builds that end without a row say why, and end so for scripts too."""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from builders.builds import open_painter, painted
from cli_runs import call
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from training.faults import ALONE
from training.ranks import in_ranks

from mmalign.builders import _config, _run
from mmalign.builders._run import build
from mmalign.cli import main
from mmalign.types import UserError


@pytest.fixture(autouse=True)
def painter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_run, "open_model", open_painter)
    torch.set_num_threads(1)


Capture = pytest.CaptureFixture[str]


def unsure(function: str = "unsure", **fields: Any) -> dict[str, Any]:
    return {
        "name": "llm_judge",
        "writer": {"name": "python_function", "function": f"writers.own_writers:{function}"},
        **fields,
    }


def test_verdicts_that_nobody_can_read_are_shown(tmp_path: Path, capsys: Capture) -> None:
    config = painted(tmp_path / "out", judge=unsure())
    build(config, ALONE)
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "warning" in one]
    reason = "most often left out (answers on which the judge's verdict could not be read): 15"
    assert line.startswith(f"warning: not one row was written; {reason}; the judge said, for one: 'My ")
    assert "judge.pattern" in line and "judge.template" in line and len(line) < 400
    record = json.loads((tmp_path / "out" / "build.json").read_text())
    assert record["status"] == "finished" and record["kept"]["pairs"] == 0
    build(config, ALONE)
    again = capsys.readouterr().err
    assert "nothing to do" in again and f"warning: not one row was written; {reason}\n" in again


def test_the_bar_ends_before_an_error_is_told(tmp_path: Path, capsys: Capture) -> None:
    judge = {"name": "builders.test_build_run:Broken"}
    with pytest.raises(UserError) as caught:
        build(painted(tmp_path / "out", judge=judge, log={"progress": True}), ALONE)
    told = capsys.readouterr().err
    assert "is not red" in str(caught.value)  # held until here, so that nothing else ends the bar
    assert "1/3" in told and told.endswith("\n")


def test_what_is_compared_is_shown_too(tmp_path: Path, capsys: Capture) -> None:
    judge = unsure(template="{response}", compare_template="{first} {second}")
    build(painted(tmp_path / "out", builder={"name": "rank_and_sift", "n": 2}, judge=judge), ALONE)
    assert "look at judge.compare_template" in capsys.readouterr().err


def test_a_build_of_nothing_ends_so_for_scripts(tmp_path: Path, capsys: Capture) -> None:
    for name, min_gap, code in (("none", 1e9, 1), ("some", 0.0, 0)):
        builder = {"name": "best_of_n", "n": 3, "min_gap": min_gap}
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(_config.to_tree(painted(tmp_path / name, builder=builder))))
        for _ in range(2):  # the second time there is nothing to do
            called = call(capsys, "build", path)
            assert called.code == code and called.out == f"{tmp_path / name}/pairs.jsonl\n", called.err
            assert ("warning: not one row was written" in called.err) == bool(code)


def painting(argv: list[str]) -> int:
    """The command line, in a process of its own that has nothing patched."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_run, "open_model", open_painter)
        patch.setattr(_run, "glance_at", lambda _: None)
        return main(argv)


def forked(arguments: argparse.Namespace) -> None:
    """What the launch asks of torchrun, by processes that start faster."""
    argv = arguments.training_script_args
    code, output = in_ranks(painting, argv, folder=Path(argv[1]).parent, size=int(arguments.nproc_per_node))
    print(output, file=sys.stderr)
    if code:
        raise ChildFailedError("mmalign", {0: ProcessFailure(0, 1, code, "none")})


@pytest.mark.multiprocess
def test_a_build_of_nothing_in_two_processes_ends_so_too(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = {"name": "best_of_n", "n": 3, "min_gap": 1e9}
    path = tmp_path / "none.yaml"
    path.write_text(yaml.safe_dump(_config.to_tree(painted(tmp_path / "none", builder=builder))))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # else the launch would set it for the tests that follow
    monkeypatch.setattr("torch.distributed.run.run", forked)
    called = call(capsys, "launch", "--processes", "2", "build", path)
    assert called.code == 1, called.err
    assert called.err.count("warning: not one row was written") == 1 and "mmalign: " not in called.err
