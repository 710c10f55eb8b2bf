"""The runs of shapes_image.py: what is compared, and how one is trained, sampled and scored."""

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _tinted import TintJudge
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray

from mmalign import api
from mmalign.rewards.brightness import Brightness
from mmalign.shapes.judges import ImageJudge
from mmalign.shapes.preferences import heldout_prompts, validation_prompts
from mmalign.training.finished import FinishedRun, open_run
from mmalign.types import Judge, Message, Part, derive_seed

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "objectives" / "diffusion"
MODEL = "mmalign/shapes/models/image"
POLICY_PATH = ["objective.trajectory=policy", "objective.sign=1", "objective.count=2"]
TINTED = ["data={source: _tinted:TintedPairs, num: 600}", "evaluation=null"]
LONGER = ["train.steps=240", "train.lr=2.0e-4"]
LIGHT = ["online.judge=brightness", "train.steps=16"]
FACTS = ["online.judge=mmalign.shapes.judges:ImageJudge", "train.steps=40"]
ROUNDS = [
    "model.generation.eta=1.0",
    "online={judge: 'mmalign.shapes.judges:ImageJudge', prompts: 8, n: 4, steps: 1}",
    "train.steps=40",
]
BASE, NOISY = "base", "base, noisy sampler"
Cell = dict[str, Any]
Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Arm:
    """One row of the table: a shipped config, what is changed in it, and with how many seeds it is run.

    `compute_of`: as many steps as take the passes of the other arm's run. `after`: start from the other arm's
    adapter, while the base stays the reference. `reward`: of runs on the model's own samples, the score of
    `scores` that they are rewarded by.
    """

    name: str
    config: str
    changes: Sequence[str] = ()
    seeds: int = 1
    style: str = "solid"
    compute_of: str | None = None
    after: str | None = None
    reward: str | None = None


ARMS = (
    Arm("dpo", "dpo", seeds=3),
    Arm("sft", "sft", seeds=3),
    Arm("dpo, labels shuffled", "dpo", ("data.flip=0.5",), seeds=3),
    Arm("mapo", "mapo", seeds=3),
    Arm("kto", "kto", seeds=3),
    Arm("dmpo", "dmpo", seeds=3),
    Arm("tint: dpo", "dpo", TINTED, style="tint"),
    Arm("tint: mapo", "mapo", TINTED, style="tint"),
    Arm("inpo", "inpo"),
    Arm("inpo, passes of dpo", "inpo", compute_of="dpo"),
    Arm("inversion_dpo", "inversion_dpo"),
    Arm("inversion_dpo, passes of dpo", "inversion_dpo", compute_of="dpo"),
    Arm("inversion_dpo after sft", "inversion_dpo", POLICY_PATH, after="sft"),
    Arm("dpo after sft", "dpo", after="sft"),
    Arm("linear_dpo", "linear_dpo"),
    Arm("dpo after sdpo", "dpo", ("transforms=[{name: sdpo}]",)),
    Arm("ipo", "ipo"),
    Arm("hinge", "hinge"),
    Arm("rdpo", "rdpo"),
    Arm("alpha_dpo", "alpha_dpo"),
    Arm("dspo", "dspo"),
    Arm("diffusion_orpo", "diffusion_orpo"),
    Arm("tint: sft", "sft", TINTED, style="tint"),
    Arm("tint: dpo, longer", "dpo", [*TINTED, *LONGER], style="tint"),
    Arm("tint: mapo, longer", "mapo", [*TINTED, *LONGER], style="tint"),
    Arm("light: ddpo", "ddpo", reward="brightness"),
    Arm("ddpo", "ddpo", FACTS, reward="score"),
    Arm("light: d3po", "d3po", reward="brightness"),
    Arm("dpo rounds", "dpo", ROUNDS, reward="score"),
    Arm("light: ddpo, all steps", "ddpo", ["objective.above=0"], reward="brightness"),
    Arm("d3po", "d3po", FACTS, reward="score"),
    Arm("spo", "spo", reward="score"),
    Arm("light: dpo rounds", "dpo", [*ROUNDS, *LIGHT], reward="brightness"),
)


@dataclass
class Passes:
    """Pictures that went through the denoiser: with a gradient (counted three times, for backward) or not."""

    total: int = field(default=0)


@contextmanager
def counted() -> Iterator[Passes]:
    """Count what the denoiser is given while the context lasts."""
    passes, plain = Passes(), UNet2DConditionModel.forward

    def forward(self: UNet2DConditionModel, sample: torch.Tensor, *rest: Any, **named: Any) -> Any:
        passes.total += len(sample) * (3 if torch.is_grad_enabled() else 1)
        return plain(self, sample, *rest, **named)

    UNet2DConditionModel.forward = forward
    try:
        yield passes
    finally:
        UNet2DConditionModel.forward = plain


def asked(split: str, count: int) -> list[tuple[Message, ...]]:
    """The first prompts of a stream that training never sees."""
    texts = (heldout_prompts if split == "heldout" else validation_prompts)(count, 0)
    return [(Message("text", (Part("text", text),)),) for text in texts]


def folder_of(name: str, seed: int, folder: Path) -> Path:
    """Where the run of an arm is."""
    return folder / name.replace(" ", "_").replace(":", "").replace(",", "") / str(seed)


def trained(
    arm: Arm, seed: int, steps: int | None, changes: Sequence[str], folder: Path
) -> tuple[Cell, Path]:
    """Train one run; what it took, and where it is."""
    output = folder_of(arm.name, seed, folder)
    overrides = [*arm.changes, *changes, f"seed={seed}", f"output={output}", f"cache={folder / 'cache'}"]
    overrides += ["log={every: 10, progress: false}", "heldout=null"]
    overrides += [f"train.steps={steps}"] if steps else []
    if arm.after is not None:
        overrides += [f"lora.path={folder_of(arm.after, seed, folder) / 'final'}"]
        overrides += [f"reference={{name: path, path: {MODEL}}}"]
    config = api.load_config(CONFIGS / f"{arm.config}.yaml", *overrides)
    began, busy = time.perf_counter(), time.process_time()
    with counted() as passes:
        api.train(config)
    train = config.train
    cell: Cell = {"run": arm.name, "seed": seed, "steps": train.steps, "batch": train.batch, "lr": train.lr}
    cell |= {"passes": passes.total, "seconds": round(time.perf_counter() - began, 1)}
    if config.online is not None:
        cell |= told_of_rounds(output)
    return cell | {"cpu_seconds": round(time.process_time() - busy, 1)}, output


def told_of_rounds(folder: Path) -> Cell:
    """From the records of a run's rounds: `judged`, how many scores were given, and `rounds`, the mean score
    of each tenth of the rounds."""
    records = [json.loads(file.read_text()) for file in sorted(folder.glob("rounds/*/round.json"))]
    scores = [record["scores"] for record in records]
    size = -(-len(scores) // 10)
    tenths = [[one for row in scores[i : i + size] for one in row] for i in range(0, len(scores), size)]
    means = [round(statistics.fmean(tenth), 4) for tenth in tenths]
    return {"judged": sum(map(len, scores)), "rounds": means}


def sampled(run: FinishedRun, base: bool, prompts: Sequence[tuple[Message, ...]]) -> list[Part]:
    """A picture for each prompt, on noise that depends on the prompt's place alone."""
    seeds = [derive_seed(0, 0, str(place), "shapes_image") for place in range(len(prompts))]
    with (run.base if base else run.tuned)() as model:
        return run.adapter.generate(model, prompts, seeds)


def scores(prompts: Sequence[tuple[Message, ...]], pictures: Sequence[Part]) -> dict[str, list[float]]:
    """By prompt: `score`, `faithfulness`, `strict` of the world's judge, the styles `solid` and `tint`, and
    `brightness`, which needs no prompt."""
    solid, tint, light = ImageJudge(), TintJudge(), Brightness()
    found: dict[str, list[float]] = {}
    judges: tuple[tuple[Judge, dict[str, str]], ...] = (
        (solid, {n: n for n in ("score", "faithfulness", "strict")} | {"solidity": "solid"}),
        (tint, {"style": "tint"}),
        (light, {"score": "brightness"}),
    )
    for prompt, picture in zip(prompts, pictures, strict=True):
        for judge, names in judges:
            verdict = judge.score(prompt, picture)
            for theirs, ours in names.items():
                found.setdefault(ours, []).append(round(verdict[theirs], 4))
    return found


def pixels(pictures: Sequence[Part]) -> Pictures:
    """[N, H, W, 3]."""
    return np.stack([np.asarray(one.data.convert("RGB")) for one in pictures])


def drift(ours: Pictures, base: Pictures) -> list[float]:
    """Mean squared difference of every two pictures from the same noise, of values from 0 to 1."""
    gaps = (ours.astype(np.float64) - base.astype(np.float64)) / 255
    return [round(float(gap), 6) for gap in np.square(gaps).mean(axis=(1, 2, 3))]


def open_for_sampling(folder: Path) -> FinishedRun:
    """A finished run."""
    return open_run(folder, allow_code=True)
