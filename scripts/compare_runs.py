"""Compare two runs of one config, such as one on two processes and one on one: compare_runs.py RUN RUN

Prints the largest difference of the training losses and of the trained weights; exit code 1 above the bounds.
"""

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from mmalign.training.checkpoint import latest


def losses(run: Path) -> dict[int, float]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {line["step"]: float(line["loss"]) for line in lines if "loss" in line}


def weights(run: Path) -> dict[str, torch.Tensor]:
    found = latest(run).found
    if found is None:
        raise SystemExit(f"{run}: holds no whole checkpoint")
    return load_file(found.path / "model.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs=2)
    parser.add_argument("--loss", type=float, default=1e-5, help="bound on the losses' difference")
    parser.add_argument("--weight", type=float, default=1e-4, help="bound on the weights' difference")
    options = parser.parse_args()
    one, two = options.runs
    ours, theirs = losses(one), losses(two)
    if ours.keys() != theirs.keys() or not ours:
        raise SystemExit(f"the runs logged other steps: {sorted(ours)} and {sorted(theirs)}")
    loss_gap = max(abs(ours[step] - theirs[step]) for step in ours)
    left, right = weights(one), weights(two)
    if left.keys() != right.keys():
        raise SystemExit("the runs trained other weights")
    weight_gap = max(float((left[name] - right[name]).abs().max()) for name in left)
    print(f"losses of {len(ours)} logged steps differ by at most {loss_gap:.2e} (bound {options.loss:.0e})")
    print(f"{len(left)} trained tensors differ by at most {weight_gap:.2e} (bound {options.weight:.0e})")
    raise SystemExit(int(loss_gap > options.loss or weight_gap > options.weight))


if __name__ == "__main__":
    main()
