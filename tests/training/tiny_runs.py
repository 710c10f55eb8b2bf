"""Small runs on models of random weights: configs, data and comparisons shared by the training tests."""

import json
from pathlib import Path
from typing import Any

import torch
from adapters import tiny_lm, tiny_sd, tiny_vlm
from safetensors.torch import load_file

from mmalign.config import RunConfig, from_tree

SIDE = 16  # pixels of a picture as the image model sees it
WORDS = ["red fox", "blue box", "happy girl", "the sky", "a question", "an answer", "no", "yes perhaps"]


def write_text_pairs(path: Path, count: int = 24) -> Path:
    """Pairs of different lengths; a third of them chat, with weights and margins."""
    with path.open("w") as file:
        for i in range(count):
            prompt: Any = f"why is {WORDS[i % 8]} {i}?"
            row = {
                "id": f"row-{i:02d}",
                "prompt": prompt if i % 3 else [{"role": "user", "content": prompt}],
                "chosen": f" {WORDS[(i + 1) % 8]} and {WORDS[(i + 3) % 8]}" * (1 + i % 2),
                "rejected": f" {WORDS[(i + 5) % 8]}" * (1 + i % 4),
                "weight": 1.0 + i % 3,
                "margin": 0.1 * (i % 4),
            }
            file.write(json.dumps(row) + "\n")
    return path


def write_image_pairs(folder: Path, count: int = 10) -> Path:
    """Pictures beside a JSONL of pairs."""
    rows = []
    for i, sample in enumerate(tiny_sd.pairs(count)):
        row: dict[str, Any] = {"id": sample.id, "prompt": f"cat {i}"}
        for role in ("chosen", "rejected"):
            name = f"{role}-{i}.png"
            sample.examples[role][0].response[0].data.save(folder / name)
            row[role] = {"image": name}
        rows.append(json.dumps(row))
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return path


def write_vlm_pairs(folder: Path, count: int = 14) -> Path:
    """Pairs about no, one and two pictures of different sizes, mixed; some with unequal sides."""
    folder.mkdir(exist_ok=True)
    for i in range(6):
        tiny_vlm.picture(i, (24 + 8 * i, 40)).save(folder / f"{i}.png")
    rows = []
    for i in range(count):
        question = {"type": "text", "text": f"what is {i}?"}
        seen = [{"type": "image", "image": f"{(i + k) % 6}.png"} for k in range(i % 3)]
        row: dict[str, Any] = {
            "id": f"row-{i:02d}",
            "prompt": [{"role": "user", "content": [*seen, question]}],
            "chosen": WORDS[i % 8],
            "rejected": f"{WORDS[(i + 3) % 8]} or {WORDS[(i + 4) % 8]}",
        }
        if i % 5 == 1:
            other = [{"type": "image", "image": f"{(i + 2) % 6}.png"}, question]
            row["prompt_chosen"] = row.pop("prompt")
            row["prompt_rejected"] = [{"role": "user", "content": other}]
        rows.append(json.dumps(row))
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return path


def add_vision(bench: "Bench", family: str = "qwen2_5_vl") -> None:
    """A vision-language model and its pairs, as the kind "vlm"; with pictures in every row as "seeing"."""
    path = tiny_vlm.save_vlm(family, bench.folder / family)
    bench.model["vlm"] = bench.model["seeing"] = {"adapter": "vlm", "path": str(path)}
    mixed = write_vlm_pairs(bench.folder / "photos")
    rows = [json.loads(line) for line in mixed.read_text().splitlines()]
    seeing = mixed.with_name("seeing.jsonl")
    kept = [row for row in rows if '"image"' in json.dumps(row.get("prompt_chosen", row.get("prompt")))]
    seeing.write_text("\n".join(json.dumps(row) for row in kept) + "\n")
    bench.data["vlm"] = {"source": "jsonl", "path": str(mixed)}
    bench.data["seeing"] = {"source": "jsonl", "path": str(seeing)}


class Bench:
    """A folder with two tiny models and two data sets; `config` makes runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "pictures").mkdir()
        self.model = {
            "text": {"adapter": "text", "path": tiny_lm.save_tiny(folder / "lm")},
            "image": {
                "adapter": "diffusion",
                "path": str(tiny_sd.save_pipeline(folder / "sd", side=SIDE)),
                "generation": {"steps": 4},
            },
        }
        self.data = {
            "text": {"source": "jsonl", "path": str(write_text_pairs(folder / "pairs.jsonl"))},
            "image": {"source": "jsonl", "path": str(write_image_pairs(folder / "pictures"))},
        }

    def tree(self, kind: str, output: str, **sections: Any) -> dict[str, Any]:
        """A config as plain values; sections given replace or extend the defaults."""
        text = kind != "image"
        tree: dict[str, Any] = {
            "model": dict(self.model[kind]),
            "data": dict(self.data[kind]),
            "objective": {"name": "dpo", "beta": 0.1 if text else 200},
            "train": {"steps": 4, "batch": 6 if text else 4, "lr": 1e-3},
            "log": {"every": 1, "progress": False},
            "cache": str(self.folder / "cache"),
            "output": str(self.folder / output),
        }
        for name, value in sections.items():
            whole = not isinstance(value, dict) or name in ("objective",)
            tree[name] = value if whole else {**tree.get(name, {}), **value}
        return tree

    def config(self, kind: str, output: str, **sections: Any) -> RunConfig:
        """The same, resolved."""
        return from_tree(self.tree(kind, output, **sections), "test", allow_code=True)


def metrics(run: Path) -> list[dict[str, float]]:
    """Lines of metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def losses(run: Path) -> list[float]:
    """Training loss of every step."""
    return [line["loss"] for line in metrics(run) if "loss" in line]


def weights(run: Path, step: int) -> dict[str, torch.Tensor]:
    """What trained, from the checkpoint of a step."""
    return load_file(run / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


def largest_gap(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Largest absolute difference over all tensors."""
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def same_files(ours: Path, theirs: Path) -> None:
    """Assert that two folders hold the same files, byte for byte."""
    names = sorted(str(p.relative_to(ours)) for p in ours.rglob("*") if p.is_file())
    assert names == sorted(str(p.relative_to(theirs)) for p in theirs.rglob("*") if p.is_file())
    for name in names:
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
