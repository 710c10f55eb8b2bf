"""A run folder with plausible figures, written through the same code that writes real ones."""

import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image, ImageDraw

from mmalign.evaluation.comparison import Answered, Comparison
from mmalign.training.record import MetricsLog, RunRecord
from mmalign.types import Part

MakeRun = Callable[..., Path]

COLOURS = {"red": (214, 48, 49), "blue": (36, 92, 214), "green": (40, 160, 80), "orange": (240, 140, 30)}


def config_of(adapter: str, **changes: Any) -> dict[str, Any]:
    """A resolved config as plain values."""
    tree: dict[str, Any] = {
        "model": {"adapter": adapter, "path": "shapes/image", "generation": {"steps": 20, "guidance": 3.0}},
        "data": {"source": "jsonl", "path": "pairs.jsonl", "heldout": 64},
        "objective": {"name": "dpo", "beta": 2000.0, "label_smoothing": 0.0},
        "reference": {"name": "auto", "path": None},
        "lora": {"rank": 8, "alpha": None, "targets": None},
        "train": {"steps": 400, "batch": 16, "lr": 1e-4, "schedule": "constant", "clip": 1.0},
        "evaluation": {"num_prompts": 64, "batch": 32, "seed": 0, "judge": {"name": "shapes"}},
        "seed": 0,
    }
    return tree | changes


def curves_at(step: int, noise: random.Random, adapter: str) -> dict[str, float]:
    """Metrics of a run that goes well."""
    done = 1 - math.exp(-step / 120)
    jitter = lambda size: noise.gauss(0, size)  # noqa: E731
    accuracy = min(1.0, max(0.0, 0.5 + 0.33 * done + jitter(0.06)))
    values = {
        "loss": 0.693 - 0.24 * done + jitter(0.03),
        "accuracy": accuracy,
        "implicit_acc": accuracy,
        "reward/chosen": 0.25 * done + jitter(0.05),
        "reward/rejected": -0.9 * done + jitter(0.08),
        "reward/margin": 1.15 * done + jitter(0.1),
        "chosen_falling": min(1.0, max(0.0, 0.5 - 0.2 * done + jitter(0.05))),
    }
    for role, change in (("chosen", 0.02), ("rejected", -0.06)):
        values[f"logp_change/{role}"] = change * done + jitter(0.01)
        values[f"logp/{role}"] = -0.6 + change * done + jitter(0.03)
        if adapter == "diffusion":
            values[f"reference_error/{role}"] = 0.31 + jitter(0.004)
            values[f"error/{role}"] = values[f"reference_error/{role}"] - 0.1 * change * done
        else:
            values[f"length/{role}"] = 34 + jitter(3)
    if adapter == "diffusion":
        values |= {f"implicit_acc/t{i}": min(1.0, max(0.0, accuracy + 0.03 * (2 - i))) for i in (1, 2, 3, 4)}
    return values


def write_curves(folder: Path, adapter: str, steps: int) -> None:
    """metrics.jsonl of a run that logs every two steps and evaluates every fifty."""
    noise, quiet = random.Random(0), random.Random(1)
    with MetricsLog(folder, 0) as log:
        for step in range(0, steps + 1, 2):
            if step:
                extra = {"lr": 1e-4, "grad_norm": 0.4 + abs(noise.gauss(0, 0.2))}
                log.write(step, curves_at(step, noise, adapter) | extra)
            if step % 50 == 0:
                held = curves_at(step, quiet, adapter)
                log.write(step, {f"heldout/{name}": value for name, value in held.items()})


def drawing(colour: str, filled: bool, shift: int) -> Image.Image:
    """A 32 x 32 picture of one shape."""
    image = Image.new("RGB", (32, 32), (244, 243, 238))
    box = (7 + shift, 8, 21 + shift, 22)
    fill = COLOURS[colour] if filled else None
    ImageDraw.Draw(image).ellipse(box, fill=fill, outline=COLOURS[colour], width=2)
    return image


def pictured(num: int) -> Comparison:
    """Pairs of pictures, the tuned ones mostly filled."""
    noise, rows = random.Random(2), []
    for place in range(num):
        colour = noise.choice(sorted(COLOURS))
        sides = []
        for chance in (0.4, 0.85):
            filled, right = noise.random() < chance, float(noise.random() < 0.7)
            scores = {
                "score": right + (0.4 if filled else 0.15),
                "faithfulness": right,
                "solidity": 0.1 + 0.7 * filled,
            }
            sides.append((Part("image", drawing(colour, filled, noise.randrange(-4, 5))), scores))
        (base, before), (tuned, after) = sides
        rows.append(Answered(f"heldout-{place}", f"a {colour} circle", (), base, tuned, before, after))
    return Comparison(tuple(rows), 0)


def told(num: int) -> Comparison:
    """Pairs of texts."""
    noise, rows = random.Random(3), []
    for place in range(num):
        base = Part("text", "The fox went to the river. The fox went to the river. It was a day.")
        tuned = Part("text", "The fox went to the river because the otter had called.\nThey shared the fish.")
        before, after = noise.uniform(0.2, 0.7), noise.uniform(0.4, 0.9)
        prompt = "Tell me what the fox did on the day of the flood, in two sentences."
        rows.append(
            Answered(
                f"row-{place}",
                prompt,
                (),
                base,
                tuned,
                {"score": before, "length": 68.0},
                {"score": after, "length": 79.0},
            )
        )
    return Comparison(tuple(rows), 0)


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Writes a run folder and returns it; `config` and `record` replace parts of the plausible ones."""

    def make(
        adapter: str = "diffusion",
        comparison: Comparison | None = None,
        config: Mapping[str, Any] | None = None,
        record: Mapping[str, Any] | None = None,
        steps: int = 400,
    ) -> Path:
        tree = config_of(adapter) | dict(config or {})
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True))
        fields: dict[str, Any] = {
            "config_hash": "5b1f0c9ad2e47711",
            "seed": 0,
            "processes": 1,
            "device": "cpu x86_64",
            "threads": 2,
            "versions": {"python": "3.11.9", "mmalign": "0.1.0", "torch": "2.15.0"},
            "git": {"commit": "3ec04da11b2c", "dirty": False},
            "data": {"hash": "9f" * 32, "rows": 2048, "heldout": 64},
            "notes": ["reference: lora_off"],
            "skipped": {"pictures_encoded": 4096, "captions_cut": 3},
            "status": "finished",
            "step": steps,
        }
        RunRecord(**(fields | dict(record or {}))).write(tmp_path)
        if steps:
            write_curves(tmp_path, adapter, steps)
        if comparison is not None:
            comparison.write(tmp_path)
        return tmp_path

    return make
