"""Our side of the diffusion benchmark: the parts of a run as `mmalign.training.run` puts them together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from _diffusion_inputs import (
    BETA,
    CLIP,
    INVERSION_BETA,
    INVERSION_GUIDANCE,
    INVERSION_STEPS,
    LR,
    MAPO_BETA,
    MAPO_K,
    RANK,
    TARGETS,
    TRAIN_TIMESTEPS,
    Draws,
    perturb,
    touch,
)

from mmalign import config as configs
from mmalign.training.console import Console
from mmalign.training.optim import make_schedule
from mmalign.training.rows import load_data
from mmalign.training.setup import build_engine, build_policy, micro_batches, start
from mmalign.training.state import Position
from mmalign.training.step import StepResult, compute_gradients, draw_seeds

DPO = {"name": "dpo", "beta": BETA}
INVERSION = {
    "name": "inversion_dpo",
    "beta": INVERSION_BETA,
    "guidance": INVERSION_GUIDANCE,
    "steps": INVERSION_STEPS,
}
MAPO = {"name": "mapo", "beta": MAPO_BETA, "k": MAPO_K, "timesteps": TRAIN_TIMESTEPS}
LOG_EVERY = 10


class Ours:
    """A run's step: encoded rows from the cache, batches made inside the step, gradients, clipping, AdamW and
    the metrics of every step, read back every tenth as a run does."""

    def __init__(
        self,
        folder: Path,
        objective: dict[str, Any],
        reference: str,
        lora: bool = True,
        train: dict[str, Any] | None = None,
        start_equal: bool = False,
    ) -> None:
        """`train` adds to the section of that name. With `start_equal` the policy stays its reference."""
        train = {"steps": 1, "batch": 1, "lr": LR, "clip": CLIP, **(train or {})}
        tree: dict[str, Any] = {
            "model": {"adapter": "diffusion", "path": str(folder / "model")},
            "data": {"source": "jsonl", "path": str(folder / "pairs.jsonl")},
            "objective": objective,
            "reference": {"name": reference},
            "train": train,
            "log": {"progress": False},
            "cache": str(folder / f"cache-{train.get('precision', 'fp32')}"),
            "output": str(folder / "run"),
        }
        if lora:
            tree["lora"] = {"rank": RANK, "targets": list(TARGETS), "init": "gaussian"}
        self.config = config = configs.from_tree(tree, "benchmark")
        self.accelerator, world = start()
        console = Console(world, progress=False, quiet=True)
        data = load_data(config, world, console)
        adapter = build_policy(config, world.device)
        data.admit(adapter, config, console)
        self.engine, self.encoder, self.optimizer = build_engine(
            config, self.accelerator, world, adapter, data, console
        )
        self.model = adapter.policy
        if not start_equal:
            perturb(self.model)
        touch(self.model)
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.schedule = make_schedule(self.optimizer, config.train)
        self.position = Position(config.seed, "", world)
        walk = [item for items in data.loader(adapter, config).steps(0, data.rows) for item in items]
        by_row = {int(item.origin.split("row ")[1]): item for item in walk}
        self.items = [by_row[row] for row in sorted(by_row)]  # in the file's order, as the peers have them
        self.result: StepResult | None = None

    def fill(self) -> None:
        """What a first epoch finds and keeps: inverted paths are made where a pair is first scored."""
        for pair in range(len(self.items)):
            self.backward(pair)
            self.model.zero_grad()

    def draws_of(self, pair: int) -> Draws:
        """What this side draws for a pair, for a peer to be given the same."""
        (micro,) = micro_batches(self.engine, self.encoder, [self.items[pair]], self.config.train)
        batch = self.engine.adapter.collate(micro.encoded, self.config.objective.roles["policy"])
        draw = self.engine.adapter.draw(batch, draw_seeds(self.engine, micro.items))
        # inverted paths start from the mean of the latents
        scale = 1.0 if self.config.objective.inversion is None else 0.0
        return Draws(draw["timestep"][:, 0], draw["noise"][:, 0], scale * draw["latent_noise"])

    def backward(self, pair: int) -> float:
        """See `Side`."""
        micros = micro_batches(self.engine, self.encoder, [self.items[pair]], self.config.train)
        self.result = compute_gradients(self.engine, micros, self.position.objective, self.position.step)
        return float(self.result.loss)

    def update(self) -> None:
        """See `Side`."""
        assert self.result is not None
        norm = self.accelerator.clip_grad_norm_(self.trainable, CLIP)
        if not bool(torch.isfinite(norm + self.result.loss)):
            raise RuntimeError("loss or gradient is not finite")
        self.optimizer.step()
        self.position.take(self.result, norm, float(self.schedule.get_last_lr()[0]))
        self.optimizer.zero_grad()
        self.schedule.step()
        self.position.advance(1)
        if self.position.step % LOG_EVERY == 0:
            self.position.report()
