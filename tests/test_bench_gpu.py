"""The GPU benchmark runs from end to end at a toy size on a CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "bench" / "diffusion_gpu.py"


def test_full_sizes_are_refused_on_a_cpu() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--device", "cpu"], capture_output=True, text=True)
    assert done.returncode == 2 and "add --tiny" in done.stderr


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
