"""What several processes say when they fail: one line and one exit code, whichever of them failed first."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import yaml

from mmalign import launching
from mmalign.cli import main

if TYPE_CHECKING:
    from training.tiny_runs import Bench

SOURCE = '''
import os
import sys
import time
from dataclasses import dataclass

from mmalign.types import UserError


@dataclass(frozen=True)
class Uneven:
    """Breaks on the processes named; the others would go on for a minute."""

    ranks: tuple[int, ...]
    error: str = "user"

    def records(self):
        if int(os.environ["RANK"]) not in self.ranks:
            time.sleep(60)
        assert "peft" not in sys.modules, "rows are refused before it is needed"
        raise UserError("uneven row 3: is broken") if self.error == "user" else KeyError("unheard of")
        yield
'''


def launch(bench: Bench, folder: Path, **source: object) -> tuple[int, list[str]]:
    """Exit code and the lines of ours of a launch in two processes, on a source that breaks."""
    (folder / "uneven.py").write_text(SOURCE)
    tree = bench.tree("text", "", data={"source": "uneven:Uneven", **source}) | {
        "output": str(folder / "out")
    }
    del tree["data"]["path"]
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    done = subprocess.run(
        [sys.executable, "-m", "mmalign", "launch", "--processes", "2", "train", "config.yaml"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=300,  # busy machines
    )
    assert not (folder / "out").exists()
    assert source["error"] != "user" or "Traceback" not in done.stderr
    assert "exitcode" not in done.stderr and "closing signal" not in done.stderr
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("mmalign: ")]


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("ranks", "error", "code", "line"),
    [
        ([0, 1], "user", 2, "uneven row 3: is broken"),
        ([1], "other", 1, "KeyError: 'unheard of' (--debug shows where)"),
    ],
)
def test_a_fault_is_told_once_with_its_exit_code(
    bench: Bench, tmp_path: Path, ranks: list[int], error: str, code: int, line: str
) -> None:
    assert launch(bench, tmp_path, ranks=ranks, error=error) == (code, [f"mmalign: {line}"])


def test_a_process_of_a_launch_leaves_its_line_to_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "failure"
    monkeypatch.setenv("MMALIGN_FAILURE_FILE", str(file))
    assert main(["report", str(tmp_path / "one")]) == 2
    assert main(["report", str(tmp_path / "two")]) == 2
    assert capsys.readouterr().err == ""
    assert file.read_text().startswith(f"2 {tmp_path}/one: holds no run")


def test_a_process_that_could_not_say_why_is_told_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "failure"
    assert launching._told(str(file), 1, -9) == 137
    assert capsys.readouterr().err == "mmalign: process 1 was ended by SIGKILL\n"
    assert launching._told(str(file), 0, 1) == 1 and capsys.readouterr().err == ""  # it has said so itself
    file.write_text("2 config: is wrong")
    assert launching._told(str(file), 0, -6) == 2
    assert capsys.readouterr().err == "mmalign: config: is wrong\n"


LAUNCHER = """
import os, subprocess, sys, time
os.environ["MMALIGN_LAUNCHER_PID"] = str(os.getpid())
child = "from mmalign.launching import follow_launcher as f; f(0.1); print('up', flush=True); input()"
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(300)
"""


@pytest.mark.multiprocess
def test_a_process_ends_when_its_launcher_was_killed() -> None:
    """Also one in a session of its own; its output is at its end when it is."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert launcher.stdout is not None and launcher.stdin is not None
    assert launcher.stdout.readline() == b"up\n"
    try:
        out = [launcher.stdout]
        assert select.select(out, [], [], 0.3)[0] == [], "it goes on as long as the launcher does"
        launcher.send_signal(signal.SIGKILL)
        assert select.select(out, [], [], 60)[0] and launcher.stdout.read() == b""
    finally:
        launcher.kill()
        launcher.stdin.close()
        launcher.stdout.close()
        launcher.wait()
