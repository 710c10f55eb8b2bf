"""The GPU benchmark runs from end to end at a toy size on a CPU."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from training.faults import in_child

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench" / "diffusion_gpu.py"


def script() -> None:
    """The script with `--device cpu`; for a forked child, where the libraries are loaded already."""
    sys.argv = [str(SCRIPT), "--device", "cpu"]
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    except SystemExit as end:
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 99)


def test_full_sizes_are_refused_on_a_cpu(capfd: pytest.CaptureFixture[str]) -> None:
    assert in_child(script) == 2
    assert "add --tiny" in capfd.readouterr().err


@pytest.mark.slow
def test_every_workload_at_a_toy_size() -> None:
    """Exit status 0 says that all sides gave equal results, in float32 and in bfloat16."""
    done = subprocess.run(
        [sys.executable, SCRIPT, "--tiny", "--device", "cpu"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for number in ("G7", "G8", "G9", "G10", "G11"):
        assert f"## {number}: " in done.stdout
    assert "Not measured" not in done.stdout and "do not count" not in done.stdout
