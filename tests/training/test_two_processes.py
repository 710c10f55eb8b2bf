"""One config is the same run on one process and on two."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ranks import in_ranks
from tiny_runs import Bench, add_vision, largest_gap, losses, weights
from two_processes import run_files

from mmalign.config import from_tree
from mmalign.training.run import run

TRAIN = {"steps": 3, "lr": 1e-4, "eps": 1e-3}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "text-full": ("text", {"train": {**TRAIN, "micro_batch": 2}, "data": {"heldout": 4}}),
    "text-lora": ("text", {"train": TRAIN, "lora": {"rank": 4}}),
    "text-kto": ("text", {"train": {**TRAIN, "batch": 8, "micro_batch": 2}, "objective": {"name": "kto"}}),
    "vlm-lora": ("vlm", {"train": {**TRAIN, "micro_batch": 2}, "lora": {"rank": 4}}),
    "vlm-tower": ("vlm", {"train": {**TRAIN, "batch": 5, "micro_batch": 1}, "model": {"trains": ["vision"]}}),
    "image-full": ("image", {"train": TRAIN}),
    "image-aspect": (  # the processes split their shares into different numbers of shapes
        "image",
        {
            "train": {**TRAIN, "batch": 7},
            "objective": {"name": "kto", "beta": 200},
            "model": {"buckets": "aspect", "flip": True},
        },
    ),
    "image-lora": ("image", {"train": {**TRAIN, "batch": 5}, "lora": {"rank": 4, "init": "gaussian"}}),
}


@pytest.mark.multiprocess
def test_two_processes_equal_one(tmp_path: Path) -> None:
    """Same losses at every step, same weights after three: full and LoRA, text, pictures, and questions about
    pictures of which a share may hold none; uneven shares; a baseline that runs over the whole step."""
    bench = Bench(tmp_path)
    add_vision(bench, "llava")
    files = []
    for name, (kind, sections) in CASES.items():
        tree = bench.tree(kind, f"two-{name}", **sections)
        file = tmp_path / f"{name}.yaml"
        file.write_text(yaml.safe_dump(tree))
        files.append(str(file))
    code, output = in_ranks(run_files, files, folder=tmp_path)
    assert code == 0, output[-3000:]
    assert output.count("weights differ by 0.0") == 2 * len(CASES)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, (kind, sections) in CASES.items():
        one = run(from_tree(bench.tree(kind, f"one-{name}", **sections), name))
        two = tmp_path / f"two-{name}"
        bound = 1e-5 if kind == "image" else 2e-6
        assert losses(two) == pytest.approx(losses(one), abs=bound), name
        assert largest_gap(weights(two, 3), weights(one, 3)) < 2e-6, name
    torch.set_num_threads(threads)
