"""The benchmark of policy gradients: its table from paths whose gradients are known."""

import sys
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).parents[1] / "scripts" / "bench"))

import path_gradient  # noqa: E402


def test_the_table_tells_a_step_that_points_up_from_one_that_drowns_it() -> None:
    """The first step's gradient is the noise that made the reward; the second's is ten times as large and
    points the other way."""
    torch.manual_seed(0)
    noise = torch.randn(path_gradient.PROMPTS * path_gradient.EACH, 1)
    slope = torch.tensor([3.0, 4.0])
    steps = torch.stack([noise * slope, -10 * noise * slope], 1)
    made = path_gradient.page([901, 1], steps, {"light": noise[:, 0].double()}, {"light": slope.double()})
    rows = [line.split(" | ") for line in made.splitlines() if line.startswith(("| 901", "| 1 "))]
    assert [row[1:3] for row in rows] == [["1.0%", "+1.00"], ["99.0%", "-1.00"]]
    assert rows[0][3] == "+0.99 |"  # of (1, 1) with (3, 4)
