"""Our side of the GPU benchmark, and the batch that all sides take their steps on.

Rows are encoded once by the adapter itself, with a random autoencoder and random text encoders of full size,
and then lie in host memory, as loader workers hand them over from the row cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from _diffusion_inputs import BETA, CLIP, LR, MAPO_BETA, MAPO_K, RANK, TRAIN_TIMESTEPS, plain
from _diffusion_ours import Ours
from _gpu_models import Frozen
from PIL import Image
from torch import Tensor, nn

from mmalign import config as configs
from mmalign.adapters._denoiser import Denoiser
from mmalign.adapters._pipeline import Parts
from mmalign.adapters.diffusion import Diffusion
from mmalign.training.checks import uses_chunks
from mmalign.training.optim import make_optimizer, make_schedule, set_training_mode
from mmalign.training.paths import PathCache
from mmalign.training.reference import ReferenceCache, make_switch
from mmalign.training.scorer import Scorer
from mmalign.training.setup import build_policy, start
from mmalign.training.state import Position
from mmalign.training.step import Engine, Micro, collate_labels, compute_gradients, draw_seeds, score
from mmalign.types import Batch, Draw, Example, Item, Message, Part, PreferenceSample, Prepared

INVERSION_BETA, INVERSION_GUIDANCE = 2000.0, 2.0
PAIR = ("chosen", "rejected")


def objective(name: str, steps: int = 20) -> dict[str, Any]:
    """The section of a workload's objective, with the constants that its peer has."""
    if name == "mapo":
        return {"name": "mapo", "beta": MAPO_BETA, "k": MAPO_K, "timesteps": TRAIN_TIMESTEPS}
    if name == "inversion":
        found: dict[str, Any] = {"name": "inversion_dpo", "beta": INVERSION_BETA}
        return {**found, "guidance": INVERSION_GUIDANCE, "steps": steps}
    return {"name": "dpo", "beta": BETA}


@dataclass(frozen=True)
class Pairs:
    """The pairs of one step: captions, and pixels [2 B, 3, H, W] uint8 on the CPU, all chosen ones first."""

    captions: tuple[str, ...]
    pixels: Tensor

    @classmethod
    def random(cls, count: int, side: int) -> Pairs:
        """Smooth random pictures under captions of six words of letters."""
        draw = np.random.default_rng(1)
        words = ["".join(draw.choice(list("abcdefghij"), 6)) for _ in range(6 * count)]
        coarse = draw.integers(0, 256, (2 * count, 8, 8, 3), dtype=np.uint8)
        fine = [
            np.asarray(Image.fromarray(one).resize((side, side), Image.Resampling.BICUBIC)) for one in coarse
        ]
        captions = tuple(" ".join(words[6 * i : 6 * i + 6]) for i in range(count))
        return cls(captions, torch.from_numpy(np.stack(fine)).permute(0, 3, 1, 2).contiguous())

    def samples(self) -> list[PreferenceSample]:
        """The same as records."""
        found = []
        for place, caption in enumerate(self.captions):
            turns = (Message("user", (Part("text", caption),)),)
            both = (self.pixels[place], self.pixels[place + len(self.captions)])
            media = [Part("image", Image.fromarray(one.permute(1, 2, 0).numpy())) for one in both]
            examples = {role: (Example(turns, (one,)),) for role, one in zip(PAIR, media, strict=True)}
            found.append(PreferenceSample(f"pair{place}", examples, origin=f"pair {place}"))
        return found


@dataclass(frozen=True)
class Given:
    """What our side drew for the pairs: clean `latents` [2 B, C, h, w], all chosen ones first,
    `noise` [B, C, h, w], integer levels `timestep` [B], and what the denoiser is told of each pair."""

    told: Mapping[str, Tensor]
    latents: Tensor
    noise: Tensor
    timestep: Tensor


@dataclass(frozen=True)
class _Random(Diffusion):
    """The adapter's own section over a pipeline that is made and not read."""

    parts: Callable[[torch.dtype], Parts] | None = None

    def build(self, device: torch.device, dtype: torch.dtype = torch.float32) -> Denoiser:
        """The adapter over a random pipeline."""
        assert self.parts is not None
        return Denoiser(self, self.parts(dtype), device)


@torch.no_grad()
def perturb(model: nn.Module) -> None:
    """The same change of what trains on every side, so that policy and reference differ: LoRA's A and B are
    drawn anew, weights of the network get noise of a tenth of their deviation."""
    named = {plain(name): p for name, p in model.named_parameters() if p.requires_grad}
    draw: torch.Generator | None = None
    for name in sorted(named):
        weight = named[name]
        draw = torch.Generator(weight.device).manual_seed(2) if draw is None else draw
        noise = torch.randn(weight.shape, generator=draw, device=weight.device)
        if "lora_A" in name:
            weight.copy_(noise * weight.shape[1] ** -0.5)
        elif "lora_B" in name:
            weight.copy_(0.3 * noise)
        elif weight.numel() > 1:
            weight.add_(0.1 * weight.std() * noise)


def _config(
    frozen: Frozen, batch: int, section: dict[str, Any], reference: str, lora: bool, train: dict[str, Any]
) -> configs.RunConfig:
    """A run's config, with the adapter's section over random parts in place of a folder."""
    settings = {"steps": 1, "batch": batch, "lr": LR, "clip": CLIP, "precision": "bf16"}
    tree: dict[str, Any] = {
        "model": {"adapter": "diffusion", "path": "random", "encoder_dtype": "bfloat16"},
        "data": {"source": "jsonl", "path": "none.jsonl"},
        "objective": section,
        "reference": {"name": reference},
        "train": {**settings, **train},
        "log": {"progress": False},
        "cache": None,
    }
    if lora:
        tree["lora"] = {"rank": RANK, "targets": list(frozen.shape.targets), "init": "gaussian"}
    config = configs.from_tree(tree, "benchmark")
    plain_model = {f.name: getattr(config.model, f.name) for f in dataclasses.fields(config.model)}
    model = _Random(**{**plain_model, "parts": frozen.parts, "resolution": frozen.shape.side})
    return dataclasses.replace(config, model=model)


class GpuOurs(Ours):
    """A run's step on pairs that are encoded already: batches made and moved inside the step, gradients,
    clipping, AdamW and the metrics of every step, read back every tenth as a run does."""

    adapter: Denoiser
    scorer: Scorer
    micro: int  # pairs per forward
    checkpointing: bool

    def __init__(
        self,
        frozen: Frozen,
        pairs: Pairs,
        section: dict[str, Any],
        reference: str,
        lora: bool,
        train: dict[str, Any] | None = None,
    ) -> None:
        """`section` is the objective's; `train` adds to the section of that name."""
        self.config = config = _config(frozen, len(pairs.captions), section, reference, lora, train or {})
        self.accelerator, world = start()
        if world.device.type != frozen.device.type:
            raise SystemExit(f"the run's device is {world.device}, the benchmark's {frozen.device}")
        adapter = build_policy(config, world.device)
        assert isinstance(adapter, Denoiser)
        self.adapter = adapter
        self.model = adapter.policy
        self.micro = len(pairs.captions)
        self.checkpointing = False
        live = reference not in ("none", "cached", "auto")
        scorer = Scorer(adapter, config.train.precision)
        if live:
            half = torch.bfloat16 if lora else torch.float32
            scorer.add_sources({"reference": make_switch(reference, adapter, config, half)})
        self.optimizer = make_optimizer(adapter.policy, config.train)
        inverting = config.objective.inversion is not None
        if inverting:
            scorer.add_sources({"reference": make_switch("copy", adapter, config, torch.float32)})
        self.scorer = scorer
        prepared, self.optimizer = self.accelerator.prepare(scorer, self.optimizer)
        self.engine = Engine(
            self.accelerator,
            world,
            adapter,
            prepared,
            config.objective,
            seed=config.seed,
            num_draws=config.train.num_draws,
            paths=PathCache(None, "benchmark") if inverting else None,
            chunked=uses_chunks(config, 1),
            deferred=config.train.backward == "deferred",
            step_chunk=config.train.step_chunk,
        )
        self.items = self._encoded(pairs)
        if reference == "cached":
            self.engine = dataclasses.replace(self.engine, cached=self._scored())
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.schedule = make_schedule(self.optimizer, config.train)
        self.position = Position(config.seed, "", world)
        self.result = None

    def _encoded(self, pairs: Pairs) -> list[Item]:
        prepared = [self.adapter.prepare(sample, PAIR) for sample in pairs.samples()]
        rows: Sequence[Prepared] = self.adapter.encode(prepared)
        return [Item(dataclasses.replace(one, encoded=True), 0, {}, {}, 1.0, one.sample_id) for one in rows]

    @torch.no_grad()
    def _scored(self) -> ReferenceCache:
        """Scores of the reference, which the policy still is, at the one draw of every pair."""
        cache = ReferenceCache(None, "benchmark")
        adapter = self.engine.adapter
        switch = make_switch("lora_off", adapter, self.config, torch.bfloat16)
        scorer = Scorer(adapter, self.config.train.precision)
        scorer.add_sources({"reference": switch})
        live = dataclasses.replace(self.engine, scorer=scorer)
        for micro in self.micros():
            seeds = draw_seeds(self.engine, micro.items)
            for role, scored in score(live, micro, "reference", PAIR, "draw").items():
                for row, sample in enumerate(scored.sample.tolist()):
                    place = torch.tensor([row])
                    cache.store(micro.encoded[sample], role, 0, seeds[sample], scored.take(place))
        return cache

    def micros(self) -> list[Micro]:
        """The step's micro-batches, as a run makes them."""
        device = self.engine.world.device
        parts = [self.items[i : i + self.micro] for i in range(0, len(self.items), self.micro)]
        return [
            Micro(
                part,
                [item.prepared for item in part],
                collate_labels(part, device),
                torch.tensor([item.weight for item in part], device=device),
            )
            for part in parts
        ]

    def ready(self) -> None:
        """Put the model, which other sides may share, into this side's mode; not timed."""
        if self.checkpointing:
            self.adapter.enable_checkpointing()
        else:
            self.adapter._parts.denoiser.disable_gradient_checkpointing()
        set_training_mode(self.model, self.config.train)

    def configure(
        self, micro: int | None = None, step_chunk: int | None = None, checkpointing: bool = False
    ) -> None:
        """Pairs per forward, steps of a path per forward, and whether activations are recomputed."""
        self.micro = micro or len(self.items)
        self.checkpointing = checkpointing
        if step_chunk is not None:
            self.engine = dataclasses.replace(self.engine, step_chunk=step_chunk)

    def prepare(self, change: Callable[[nn.Module], None]) -> None:
        """Move the policy away from its reference; what was found with the policy before stays."""
        change(self.model)

    def backward(self, pair: int = 0) -> float:
        """Loss of the step's pairs, its gradients added to what trains; see `Side`."""
        self.result = compute_gradients(
            self.engine, self.micros(), self.position.objective, self.position.step
        )
        return float(self.result.loss)

    def step(self) -> None:
        """A whole step."""
        self.result = compute_gradients(
            self.engine, self.micros(), self.position.objective, self.position.step
        )
        self.update()

    def given(self) -> Given:
        """What this side draws for the pairs, for a peer to be given the same."""
        items = self.items
        batch: Batch = self.adapter.collate([item.prepared for item in items], PAIR)
        draw: Draw = self.adapter.draw(batch, draw_seeds(self.engine, items))
        order = torch.cat([batch.rows_of(role) for role in PAIR]).to(self.adapter.device)
        latents = batch.inputs["mean"][order]
        if self.config.objective.inversion is None:
            noise = draw["latent_noise"].repeat(2, 1, 1, 1)
            latents = latents + (0.5 * batch.inputs["logvar"][order]).exp() * noise
        told = {n: batch.inputs[n][order][: len(items)] for n in self.adapter._family.conditions}
        clean = self.adapter._latents.normalised(latents)
        return Given(told, clean, draw["noise"][:, 0], draw["timestep"][:, 0])

    def held(self) -> list[Tensor]:
        """Everything that stays on the device between steps because of this side."""
        found = [*self.model.parameters(), *self.model.buffers(), *state_of(self.optimizer)]
        pipeline = self.adapter._parts.pipeline
        frozen = [pipeline.vae, *self.adapter._parts.encoders]
        for switch in self.scorer._switches.values():
            with switch() as module:
                found += [*module.parameters(), *module.buffers()]
        return found + [value for module in frozen for value in (*module.parameters(), *module.buffers())]


def state_of(optimizer: Any) -> list[Tensor]:
    """Tensors of an optimizer's state."""
    return [v for state in optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
