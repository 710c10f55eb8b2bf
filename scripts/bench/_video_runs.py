"""The runs of shapes_video.py: what is compared, and how one is trained and asked."""

import hashlib
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _video_pairs import KINDS, PAIR_COUNTS, Kind, make_pairs, sampler, write_pairs
from _video_world import Asked, Frames, Topic, first_questions, prompt_of, with_frames

from mmalign import api
from mmalign.shapes.sights import Split
from mmalign.shapes.tiny_qwen_vl import load_vlm
from mmalign.shapes.vlm_answers import answer_clips
from mmalign.training.finished import open_run
from mmalign.types import Message, derive_seed

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs" / "objectives" / "video_lm"
SEED = 2000
"""Seed of the scenes that models are asked about."""
ASKED: Mapping[Topic, tuple[Frames, ...]] = {
    "relay": ("ordered", "shuffled", "reversed", "frozen"),
    "motion": ("ordered", "shuffled", "reversed", "frozen"),
    "late": ("ordered", "shuffled"),
    "count": ("ordered",),
    "caption": ("ordered",),
}
SHIPPED = ROOT / "mmalign" / "shapes" / "models" / "video"
BASE, BUILT_IN, BASE_STEPS = "base", "built-in model", 110
Cell = dict[str, Any]
Ask = Callable[[Sequence[tuple[Message, ...]]], list[str]]


@dataclass(frozen=True)
class Arm:
    """One row of the table: a shipped config, what is changed in it, the pairs it trains on, how many seeds,
    whether the clips that it trains on have their frames shuffled, and its rate."""

    name: str
    config: str
    pairs: Kind = "own"
    changes: Sequence[str] = ()
    seeds: int = 1
    shuffled: bool = False
    lr: float = 2.0e-4


MDPO = "objective={{name: mdpo, beta: 0.1, corruption: {}}}"
ARMS = (
    Arm("dpo", "dpo", seeds=3),
    Arm("mdpo, reversed", "mdpo", seeds=3),
    Arm("tpo", "tpo", "tpo", seeds=3, lr=5.0e-4),
    Arm("sft", "sft", seeds=3),
    Arm("dpo, labels shuffled", "dpo", changes=("data.flip=0.5",), seeds=3),
    Arm("dpo, frames shuffled", "dpo", seeds=3, shuffled=True),
    Arm("mdpo, frames shuffled", "mdpo", seeds=3, shuffled=True),
    Arm("dpo, reversed pairs", "dpo", "reversed", seeds=3),
    Arm("mdpo, shuffled", "mdpo", changes=(MDPO.format("shuffled_frames"),)),
    Arm("mdpo, dropped", "mdpo", changes=(MDPO.format("dropped_frames"),)),
    Arm("ipo", "ipo"),
    Arm("kto", "kto"),
    Arm("dpo, world pairs", "dpo", "world"),
    Arm("tpo on own pairs", "tpo", lr=5.0e-4),
    Arm("mdpo, crop", "mdpo", changes=(MDPO.format("crop"),)),
    Arm("sft, frames shuffled", "sft", shuffled=True),
)


# ---------------------------------------------------------------- the base and its pairs


def made_base(folder: Path, steps: int | None = None) -> Path:
    """The base: the built-in model of clips, all weights of whose language model learn the habit, in
    BASE_STEPS or another number of steps."""
    base = folder / "base" / "final"
    if not base.exists():
        overrides = [
            "data={source: '_video_pairs:HabitAnswers'}",
            *("objective={name: sft}", "heldout=null", "evaluation=null", "lora=null"),
            *(f"train.steps={steps or BASE_STEPS}", f"output={folder / 'base'}", f"cache={folder / 'cache'}"),
            *("log={every: 10, progress: false}", "seed=0"),
        ]
        api.train(api.load_config(CONFIGS / "sft.yaml", *overrides))
    return base


def digest_of(base: Path) -> str:
    """What names the weights of a base."""
    return hashlib.sha256((base / "model.safetensors").read_bytes()).hexdigest()[:16]


def made_pairs(base: Path, folder: Path, counts: Mapping[Topic, int] | None = None) -> list[Cell]:
    """Make the files of pairs that are missing; what each of these took."""
    told: list[Cell] = []
    missing = [kind for kind in KINDS if not pairs_file(folder, kind).exists()]
    if missing:
        model, processor = load_vlm(base)
        for kind in missing:
            pairs, found = make_pairs(kind, sampler(model, processor), counts or PAIR_COUNTS)
            write_pairs(pairs_file(folder, kind), pairs)
            told.append({"run": f"pairs: {kind}", "split": "training", "seed": 0, "lr": None} | found)
    return told


def pairs_file(folder: Path, kind: Kind) -> Path:
    """Where the pairs of a kind are."""
    return folder / f"pairs-{kind}.jsonl"


# ---------------------------------------------------------------- training and asking


def folder_of(arm: Arm, seed: int, lr: float, folder: Path) -> Path:
    """Where the run of an arm is."""
    return folder / "runs" / f"{arm.name.replace(' ', '_').replace(',', '')}-{lr:g}-{seed}"


def trained(arm: Arm, seed: int, lr: float, steps: int | None, folder: Path) -> Cell:
    """Train one run on the base of a folder; what it took."""
    pairs = f"path: '{pairs_file(folder, arm.pairs)}', shuffled: {str(arm.shuffled).lower()}"
    overrides = [
        f"model.path={folder / 'base' / 'final'}",
        f"data={{source: '_video_pairs:TemporalPairs', {pairs}}}",
        *arm.changes,
        *(f"train.lr={lr}", f"seed={seed}", f"cache={folder / 'cache'}"),
        f"output={folder_of(arm, seed, lr, folder)}",
        *("log={every: 10, progress: false}", "heldout=null", "evaluation=null"),
    ]
    overrides += [f"train.steps={steps}"] if steps else []
    config = api.load_config(CONFIGS / f"{arm.config}.yaml", *overrides)
    began, busy = time.perf_counter(), time.process_time()
    api.train(config)
    train = config.train
    cell: Cell = {"run": arm.name, "seed": seed, "steps": train.steps, "batch": train.batch, "lr": train.lr}
    cell["seconds"] = round(time.perf_counter() - began, 1)
    return cell | {"cpu_seconds": round(time.process_time() - busy, 1)}


def asked_of_run(output: Path, base: bool, split: Split, count: int) -> Cell:
    """What a finished run, or its base, answers to held-out questions."""
    run = open_run(output, allow_code=True)

    def answers(prompts: Sequence[tuple[Message, ...]]) -> list[str]:
        seeds = [derive_seed(0, 0, str(place), "shapes_video") for place in range(len(prompts))]
        with (run.base if base else run.tuned)() as model:
            return [str(part.data) for part in run.adapter.generate(model, prompts, seeds)]

    return figures(answers, split, count)


def asked_of_shipped(split: Split, count: int) -> Cell:
    """What the built-in model of clips answers to the same questions."""
    model, processor = load_vlm(SHIPPED)

    def answers(prompts: Sequence[tuple[Message, ...]]) -> list[str]:
        parts = [prompt[0].parts for prompt in prompts]
        clips = [clip.data.frames for clip, _ in parts]
        return answer_clips(model, processor, clips, [str(text.data) for _, text in parts])

    return figures(answers, split, count)


def figures(answers: Ask, split: Split, count: int) -> Cell:
    """By figure a string with 1 for every question to which it applies and 0 for the others.

    Of every topic the right answers, "relay" or "relay shuffled", and where there is an opposite one, these
    as "relay shuffled, opposite". "motion moves" tells the questions about things that move, "motion habit"
    the answers that follow the habit though it is wrong, "late neither" those that name neither thing.
    """
    found: Cell = {}
    for topic, conditions in ASKED.items():
        questions = first_questions(split, SEED, topic, count)
        for frames in conditions:
            rng = random.Random(f"frames/{topic}/{frames}/{split}")
            said = answers([prompt_of(with_frames(one.clip, frames, rng), one.question) for one in questions])
            name = topic if frames == "ordered" else f"{topic} {frames}"
            pairs = list(zip(questions, said, strict=True))
            found[name] = _marks(text == one.answer for one, text in pairs)
            if topic in ("relay", "motion", "late"):
                found[f"{name}, opposite"] = _marks(text == one.opposite for one, text in pairs)
            if frames == "ordered":
                found |= _more(topic, pairs)
    return found


def _more(topic: Topic, pairs: Sequence[tuple[Asked, str]]) -> Cell:
    if topic == "motion":
        return {
            "motion moves": _marks(one.opposite is not None for one, _ in pairs),
            "motion habit": _marks(one.habit == text != one.answer for one, text in pairs),
        }
    if topic in ("relay", "late"):
        return {f"{topic} neither": _marks(text not in one.named for one, text in pairs)}
    return {}


def _marks(values: Any) -> str:
    return "".join("1" if value else "0" for value in values)
