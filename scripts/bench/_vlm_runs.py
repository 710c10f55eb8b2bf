"""The runs of shapes_vlm.py: what is compared, and how one is trained, asked and scored."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from _seeing import Asked
from _several import Built, built_pairs, taught
from _vlm_asked import among_several, leanings, margins, one_picture, right_and_wrong

from mmalign import api
from mmalign.shapes.judges import CaptionJudge
from mmalign.shapes.sights import Split
from mmalign.training.finished import FinishedRun, open_run
from mmalign.types import Part, derive_seed

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "objectives" / "vlm"
EXCHANGED = "data={source: '_exchanged:ExchangedPairs'}"
SHUFFLED = "data.flip=0.5"
SEGMENTS = "transforms=[{name: segment_weights, gamma: 3.0, normalise: false}]"
ANCHORED = "objective=[{name: dpo, beta: 0.1}, {name: sft, weight: 0.1, reduction: token_mean}]"
SINGLE = "data={source: '_single:SingleRows', captions: false, num: 2400}"
EVEN, ANY = "several: mia_dpo, as many yes as no", "several: any answer"
HIGHER = "train.lr=1.0e-4"
BASE = "base"
Start = Literal["built-in", "taught"]
Cell = dict[str, Any]
Scores = dict[str, list[float]]


@dataclass(frozen=True)
class Arm:
    """One row of the table: a shipped config, what is changed in it, and with how many seeds it is run.

    `rate_of`: takes the learning rate that was chosen for another arm. `start`: trains the built-in model, or
    one that was taught to read several pictures. `built`: trains on MIA-DPO's pairs of that model: on
    questions about one picture among several, as built, or with another picture's number in them.
    """

    name: str
    config: str
    changes: Sequence[str] = ()
    seeds: int = 1
    rate_of: str | None = None
    start: Start = "built-in"
    built: Built | None = None

    @property
    def several(self) -> bool:
        """Whether it is asked about one picture among several, too."""
        return self.name.startswith("several")

    @property
    def swept(self) -> bool:
        """Whether rates are tried for it: neither another one's nor a rate of its own is set."""
        return self.rate_of is None and HIGHER not in self.changes

    @property
    def base(self) -> str:
        """The name of the row of what it started from."""
        return BASE if not self.several else f"several: {self.start}"


ARMS = (
    Arm("dpo", "dpo", seeds=3),
    Arm("mdpo", "mdpo", seeds=3),
    Arm("sft", "sft", seeds=3),
    Arm("dpo, labels shuffled", "dpo", (SHUFFLED,), seeds=3, rate_of="dpo"),
    Arm("chip", "chip", seeds=3),
    Arm("vdpo", "vdpo", seeds=3),
    Arm("dpo + sft", "dpo", (ANCHORED,), seeds=3),
    Arm("mm_dpo", "mm_dpo"),
    Arm("re_align", "re_align"),
    Arm("povid", "povid"),
    Arm("bdhs", "bdhs"),
    Arm("length_dpo", "length_dpo"),
    Arm("dpo, segment weights", "dpo", (SEGMENTS,)),
    Arm("ipo", "ipo"),
    Arm("simpo", "simpo"),
    Arm("kto", "kto"),
    Arm("dpo, rate of mdpo", "dpo", (), 3, "mdpo"),
    Arm("mdpo, crop", "mdpo", ("objective.corruption=crop",), rate_of="mdpo"),
    Arm("dpo, pictures exchanged", "dpo", (EXCHANGED,), rate_of="dpo"),
    Arm("mdpo, pictures exchanged", "mdpo", (EXCHANGED,), rate_of="mdpo"),
    Arm("mdpo, labels shuffled", "mdpo", (SHUFFLED,), rate_of="mdpo"),
    Arm("hinge", "hinge", rate_of="dpo"),
    Arm("rdpo", "rdpo", rate_of="dpo"),
    Arm("alpha_dpo", "alpha_dpo", rate_of="dpo"),
    Arm("dmpo", "dmpo", rate_of="dpo"),
    Arm("several: mia_dpo", "dpo", (ANCHORED,), 1, None, "taught", "questions"),
    Arm("several: mia_dpo, higher rate", "dpo", (ANCHORED, HIGHER), 1, None, "taught", "questions"),
    Arm(EVEN, "dpo", (ANCHORED,), 3, None, "taught", "even"),
    Arm(f"{EVEN}, higher rate", "dpo", (ANCHORED, HIGHER), 3, None, "taught", "even"),
    Arm(f"{EVEN}, drifted", "dpo", (ANCHORED,), 1, EVEN, "taught", "even, drifted"),
    Arm(f"{EVEN}, wrong numbers", "dpo", (ANCHORED,), 3, EVEN, "taught", "even, wrong numbers"),
    Arm(f"{EVEN}, elsewhere", "dpo", (ANCHORED,), 3, None, "taught", "even, elsewhere"),
    Arm("several: sft on the even ones' chosen", "sft", (), 1, EVEN, "taught", "even"),
    Arm(ANY, "dpo", (ANCHORED,), 3, None, "taught", "any"),
    Arm(f"{ANY}, drifted", "dpo", (ANCHORED,), 1, ANY, "taught", "any, drifted"),
    Arm(f"{ANY}, elsewhere", "dpo", (ANCHORED,), 3, None, "taught", "any, elsewhere"),
    Arm("several: sft, one picture", "sft", (SINGLE, HIGHER), 3, None, "taught"),
    Arm("several: dpo + sft, one picture", "dpo", (ANCHORED, HIGHER), 3, None, "taught"),
    Arm("several: mia_dpo with captions", "dpo", (ANCHORED,), 1, None, "taught", "mixed"),
    Arm("several: mia_dpo with captions, untaught", "dpo", (ANCHORED,), 1, None, "built-in", "mixed"),
    Arm("several: dpo + sft, one picture, untaught", "dpo", (ANCHORED,), 1, None),
)


def trained(arm: Arm, seed: int, lr: float | None, steps: int | None, folder: Path) -> tuple[Cell, Path]:
    """Train one run; what it took, and where it is."""
    place = "_".join(re.findall(r"\w+", arm.name))
    output = folder / f"{place}-{lr or 'own'}" / str(seed)
    overrides = [*arm.changes, f"seed={seed}", f"output={output}", f"cache={folder / 'cache'}"]
    overrides += ["log={every: 10, progress: false}", "heldout=null", "evaluation=null"]
    overrides += [f"train.lr={lr}"] if lr else []
    overrides += [f"train.steps={steps}", "train.warmup_steps=2"] if steps else []
    if arm.start == "taught":
        overrides += [f"model.path={taught(folder)}"]
    if arm.built is not None:
        overrides += [f"data={{source: jsonl, path: '{built_pairs(arm.start, arm.built, folder)}'}}"]
    config = api.load_config(CONFIGS / f"{arm.config}.yaml", *overrides)
    began, busy = time.perf_counter(), time.process_time()
    api.train(config)
    train = config.train
    cell: Cell = {"run": arm.name, "seed": seed, "steps": train.steps, "batch": train.batch, "lr": train.lr}
    cell |= {"seconds": round(time.perf_counter() - began, 1)}
    return cell | {"cpu_seconds": round(time.process_time() - busy, 1)}, output


def figures(run: FinishedRun, base: bool, split: Split, count: int, several: bool) -> Scores:
    """Everything that is asked of one model, prompt by prompt. Likelihoods are for held-out scenes: of
    captions of one picture, or of yes and no about one among several."""
    asked = one_picture(split, count) | (among_several(split, count) if several else {})
    found: Scores = {}
    with torch.no_grad(), (run.base if base else run.tuned)() as model:
        for prefix, listed in asked.items():
            seeds = [derive_seed(0, 0, str(place), "shapes_vlm") for place in range(len(listed))]
            answers = [
                str(one.data) for one in run.adapter.generate(model, [one.prompt for one in listed], seeds)
            ]
            found |= judged(listed, answers, prefix)
        if split == "heldout" and several:
            found["leaning"] = leanings(run.adapter, model, asked["several "])
        elif split == "heldout":
            found |= margins(run.adapter, model, right_and_wrong(split, count))
    return found


def judged(listed: Sequence[Asked], answers: Sequence[str], prefix: str) -> Scores:
    """The judge's figures by name; of captions the number of words, too."""
    judge, found = CaptionJudge(), dict[str, list[float]]()
    for one, answer in zip(listed, answers, strict=True):
        values = dict(judge.score(one.judged, Part("text", answer)))
        if "presence" in values:
            values = {"presence": values["presence"]}
        else:
            values["words"] = len(answer.split())
        for name, value in values.items():
            short = round(value, 4)
            found.setdefault(prefix + name, []).append(int(short) if short == int(short) else short)
    return found


def open_for_asking(folder: Path) -> FinishedRun:
    """A finished run."""
    return open_run(folder, allow_code=True)
