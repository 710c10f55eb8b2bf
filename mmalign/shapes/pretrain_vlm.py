"""Pretrain the tiny vision-language model of the shapes world in stages, from nothing, on one CPU core.

The order is: perceive first, habits last. "tower" trains the vision tower alone on what is where. "first" and
"second" train all of it on captions and questions about pictures and clips. The two habit stages start
from there: "vlm" teaches the caption and presence habits, "video" the motion habits. Every stage resumes
where it stopped; its batches depend on (seed, stage, step) alone.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmalign.shapes.habits import CLIP_HABITS, PICTURE_HABITS
from mmalign.shapes.pretrain_state import learning_rate, load_state, save_state, write_json
from mmalign.shapes.sight_text import Topic
from mmalign.shapes.tiny_qwen_vl import (
    VIDEO_FOLDER,
    VLM_FOLDER,
    build_model,
    build_processor,
    build_tokenizer,
)
from mmalign.shapes.vlm_batch import Mix, clip_batch, picture_batch
from mmalign.shapes.vlm_card import write_card
from mmalign.shapes.vlm_learner import Learner, Losses
from mmalign.types import UserError

PICTURE_WEIGHTS: dict[Topic, float] = {
    "caption": 1.5, "colour": 0.8, "shape": 1.0, "size": 1.0, "count": 1.0,
    "presence": 2.6, "relation": 1.6, "relation_check": 1.0,
}  # fmt: skip
CLIP_WEIGHTS: dict[Topic, float] = {
    "caption": 1.2, "motion": 1.8, "motion_check": 1.4, "order": 1.4, "count": 0.8, "presence": 1.4,
}  # fmt: skip
# Questions to be answered with yes or no about two things at once come late: the second stage asks more.
LATER_PICTURE_WEIGHTS: dict[Topic, float] = {
    "caption": 1.6, "colour": 0.6, "shape": 0.8, "size": 0.6, "count": 1.2,
    "presence": 2.6, "relation": 1.2, "relation_check": 2.0,
}  # fmt: skip
LATER_CLIP_WEIGHTS: dict[Topic, float] = {
    "caption": 1.6, "motion": 1.4, "motion_check": 2.0, "order": 2.0, "count": 0.6, "presence": 1.4,
}  # fmt: skip
# The habit stages ask most for what the habits change, and keep the rest alive.
HABIT_PICTURE_WEIGHTS: dict[Topic, float] = {
    "caption": 2.5, "colour": 0.6, "shape": 0.6, "size": 0.6, "count": 1.0,
    "presence": 4.0, "relation": 1.0, "relation_check": 1.2,
}  # fmt: skip
HABIT_CLIP_WEIGHTS: dict[Topic, float] = {
    "caption": 1.2, "motion": 2.6, "motion_check": 1.6, "order": 1.6, "count": 0.6, "presence": 1.0,
}  # fmt: skip


@dataclass(frozen=True)
class Stage:
    """One stage: its steps, peak learning rate, warm-up steps and batches.

    `clips` is the share of steps about clips. The tower learns at `tower` times the rate; `dense` is the
    weight of the dense loss; `speaks` is False where the dense loss is the only one.
    """

    name: str
    after: str | None
    steps: int
    mix: Mix
    lr: float
    warmup: int = 100
    clips: float = 0.0
    tower: float = 0.4
    dense: float = 0.3
    speaks: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps <= 0 or self.lr <= 0:
            raise UserError(f"stage {self.name}: steps {self.steps} and lr {self.lr} must both be above 0")

    def is_clip_step(self, step: int) -> bool:
        """Whether this step is about clips."""
        return int((step + 1) * self.clips) > int(step * self.clips)


_SPEAKING = Mix(16, 6, PICTURE_WEIGHTS, CLIP_WEIGHTS)
_LATER = Mix(16, 6, LATER_PICTURE_WEIGHTS, LATER_CLIP_WEIGHTS)
_HABIT = Mix(16, 6, HABIT_PICTURE_WEIGHTS, HABIT_CLIP_WEIGHTS)
_DENSE = Mix(48, 1, {"count": 1.0}, {"count": 1.0})
STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("tower", None, 1000, _DENSE, 2e-3, clips=0.35, tower=1.0, dense=1.0, speaks=False),
        Stage("first", "tower", 4000, _SPEAKING, 1.5e-3, warmup=150, clips=0.25),
        Stage("second", "first", 3600, _LATER, 1.5e-3, clips=0.35),
        Stage("vlm", "second", 700, replace(_HABIT, habits=PICTURE_HABITS), 1e-3, clips=0.1),
        Stage("video", "second", 400, replace(_HABIT, habits=CLIP_HABITS, usual=0.4), 1e-3, clips=0.9),
    )
}


def run_stage(folder: Path, stage: Stage, stop_at: int | None = None, save_every: int = 100) -> Learner:
    """Train one stage in `folder/<name>`, continuing where it stopped, from the end of the one before it."""
    learner = new_learner()
    if stage.after is not None:
        load_finished(folder, STAGES[stage.after], learner)
    check_settings(folder, stage)
    optimizer = make_optimizer(learner, stage)
    start = load_state(folder / stage.name, learner, None, optimizer)
    last = stage.steps if stop_at is None else min(stop_at, stage.steps)
    tokenizer, began = build_tokenizer(), time.time()
    log = StageLog()
    learner.train()
    for step in range(start, last):
        make = clip_batch if stage.is_clip_step(step) else picture_batch
        batch = make(tokenizer, stage.mix, stage.seed, stage.name, step)
        rate = learning_rate(step, stage.steps, stage.lr, stage.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["share"]
        optimizer.zero_grad()
        if stage.speaks:
            losses = learner.losses(batch)
            loss = losses.answers + stage.dense * losses.dense
        else:
            loss, right = learner.dense_loss(learner.features(batch), batch)
            losses = Losses(torch.zeros(()), loss, right)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimizer.step()
        log.add(losses, batch.clips)
        if (step + 1) % 100 == 0 or step + 1 == last:
            pace = (time.time() - began) / (step + 1 - start)
            print(f"{stage.name} {step + 1}/{stage.steps} {log.line()} {pace:.3f} s/step", flush=True)
            log = StageLog()
        if (step + 1) % save_every == 0 or step + 1 == last:
            save_state(folder / stage.name, step + 1, learner, None, optimizer)
    return learner.eval()


class StageLog:
    """Means over the steps since the last line: losses, and the share of right answers per topic."""

    def __init__(self) -> None:
        self.losses: list[tuple[Tensor, Tensor]] = []
        self.right: dict[str, list[int]] = defaultdict(lambda: [0, 0])

    def add(self, losses: Losses, clips: bool) -> None:
        """Count one step."""
        self.losses.append((losses.answers.detach(), losses.dense.detach()))
        for name, (good, given) in losses.right.items():
            entry = self.right[f"{'clip' if clips else 'pic'}:{name}"]
            entry[0] += good
            entry[1] += given

    def line(self) -> str:
        """One line: both losses, then topic by topic."""
        answers, dense = (float(torch.stack(column).mean()) for column in zip(*self.losses, strict=True))
        shares = (f"{name} {good / max(1, given):.2f}" for name, (good, given) in sorted(self.right.items()))
        return f"loss {answers:.3f} dense {dense:.3f} | " + " ".join(shares)


def new_learner(seed: int = 0) -> Learner:
    """The untrained model with its dense heads, seeded."""
    model = build_model(build_tokenizer(), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        return Learner(model)


def make_optimizer(learner: Learner, stage: Stage) -> torch.optim.AdamW:
    """AdamW with a `share` of the rate for the tower, and one for the rest where the stage speaks."""
    tower = [p for name, p in learner.named_parameters() if name.startswith(("vlm.model.visual.", "heads."))]
    known = {id(parameter) for parameter in tower}
    rest = [parameter for parameter in learner.parameters() if id(parameter) not in known]
    groups: list[dict[str, Any]] = [{"params": tower, "share": stage.tower}]
    if stage.speaks:
        groups.append({"params": rest, "share": 1.0})
    return torch.optim.AdamW(groups, lr=stage.lr, betas=(0.9, 0.98), weight_decay=0.01)


def load_finished(folder: Path, stage: Stage, learner: Learner) -> None:
    """Take the weights from the end of a stage; UserError where it has not ended."""
    path = folder / stage.name
    done = load_state(path, learner, None, make_optimizer(learner, stage)) if path.exists() else 0
    if done < stage.steps:
        raise UserError(f"{path} holds step {done} of {stage.steps}: run stage {stage.name} to its end first")


def check_settings(folder: Path, stage: Stage) -> None:
    """Write the settings of a stage beside its state; UserError where that was made with others."""
    path, settings = folder / f"{stage.name}.json", json.loads(json.dumps(_plain(asdict(stage))))
    if path.exists() and json.loads(path.read_text()) != settings:
        raise UserError(f"{path}: this stage was begun with other settings; use another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return value


def export(learner: Learner, target: Path) -> None:
    """Write model (half precision) and processor as a folder that the library's own loaders read."""
    weights = {name: value.half() for name, value in learner.vlm.state_dict().items()}
    tokenizer = build_tokenizer()
    model = build_model(tokenizer).half()
    model.load_state_dict(weights)
    model.save_pretrained(target)
    build_processor(tokenizer).save_pretrained(target)
    for path in target.iterdir():
        path.chmod(0o644)


def chain_of(name: str) -> list[Stage]:
    """The stages that lead to a stage, itself last."""
    stage = STAGES[name]
    return ([] if stage.after is None else chain_of(stage.after)) + [stage]


def main(argv: Sequence[str]) -> None:
    """Run or resume the pretraining of the picture model "vlm" or the clip model "video", or measure it."""
    parser = argparse.ArgumentParser(prog="pretrain_shapes.py", description=__doc__)
    parser.add_argument("model", choices=("vlm", "video"))
    parser.add_argument("--work", type=Path, default=Path("runs/pretrain_vlm"), help="states of all stages")
    parser.add_argument("--export", type=Path, help="where the model goes; default: into the package")
    parser.add_argument(
        "--figures", action="store_true", help="only measure the exported model, write its card"
    )
    parser.add_argument("--num", type=int, default=150, help="scenes per topic for the figures")
    parser.add_argument("--seed", type=int, default=2, help="seed of the scenes for the figures")
    args = parser.parse_args(argv)
    chain = chain_of(args.model)
    target = args.export or {"vlm": VLM_FOLDER, "video": VIDEO_FOLDER}[args.model]
    if not args.figures:
        for stage in chain:
            learner = run_stage(args.work, stage)
        export(learner, target)
    steps = ", ".join(f"{stage.steps:,} steps of stage {stage.name}" for stage in chain)
    print(write_card(target, args.model, steps, chain[-1].mix.habits, args.num, args.seed))
