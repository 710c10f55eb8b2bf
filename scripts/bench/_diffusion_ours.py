"""Our side of the diffusion benchmark: the parts of a run as `mmalign.training.run` puts them together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
from _our_step import OurStep

from mmalign import config as configs
from mmalign.training.setup import micro_batches
from mmalign.training.step import draw_seeds

DPO = {"name": "dpo", "beta": BETA}
INVERSION = {
    "name": "inversion_dpo",
    "beta": INVERSION_BETA,
    "guidance": INVERSION_GUIDANCE,
    "steps": INVERSION_STEPS,
}
MAPO = {"name": "mapo", "beta": MAPO_BETA, "k": MAPO_K, "timesteps": TRAIN_TIMESTEPS}
LOG_EVERY = 10


class Ours(OurStep):
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
        super().__init__(configs.from_tree(tree, "benchmark"))
        if not start_equal:
            perturb(self.model)
        touch(self.model)

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

    def update(self) -> None:
        """See `Side`."""
        super().update()
        if self.position.step % LOG_EVERY == 0:
            self.position.report()
