"""One optimizer step: score, take the objective, differentiate.

Two ways to differentiate give the same gradient. `direct` keeps the graph of a micro-batch from scores to
loss. `chunked` scores everything without a graph, differentiates the objective with respect to the scores
alone, then scores each micro-batch again and sends those derivatives back through it: the memory does not
grow with the number of rows, and an objective may couple samples across micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from mmalign.training._joining import join_scores, join_units
from mmalign.training.metrics import sample_metrics
from mmalign.training.paths import PathCache, inverted, pieces
from mmalign.training.reference import MovingReference, ReferenceCache
from mmalign.training.world import World
from mmalign.types import (
    Adapter,
    AllMean,
    Batch,
    Draw,
    Item,
    LogProbs,
    Objective,
    Outcome,
    PathObjective,
    PixelReward,
    Prepared,
    Scores,
    State,
    Transform,
    derive_seed,
)


@dataclass(frozen=True)
class Engine:
    """What every step of a run shares."""

    accelerator: Accelerator
    world: World
    adapter: Adapter
    scorer: nn.Module  # a Scorer as accelerate prepared it
    objective: Objective
    transforms: tuple[Transform, ...] = ()
    cached: ReferenceCache | None = None  # stands in for the live reference
    moving: MovingReference | None = None  # a live reference that follows the policy
    seed: int = 0
    num_draws: int | None = None  # None: fresh draws every epoch
    reward: PixelReward | None = None  # of an objective on sampled media
    paths: PathCache | None = None  # of an inversion led by a reference that never changes
    chunked: bool = False
    deferred: bool = False  # a path's gradient is taken a few steps at a time
    step_chunk: int | None = None  # steps of a path per forward
    dropout: bool = False

    @property
    def needs(self) -> frozenset[str]:
        """What the adapter must give: for the objective, and for the transforms before it."""
        return self.objective.needs.union(*(transform.needs for transform in self.transforms))

    @property
    def batch_coupled(self) -> bool:
        """True if a sample's loss depends on the other samples of the step."""
        return self.objective.batch_coupled or any(t.batch_coupled for t in self.transforms)


@dataclass(frozen=True)
class Micro:
    """The samples of one forward of one process."""

    items: Sequence[Item]
    encoded: Sequence[Prepared]
    labels: Mapping[str, Any]
    weight: Tensor  # [n]


@dataclass
class StepResult:
    """Loss of the step over all processes, per-sample metrics of this process, the objective's next state."""

    loss: Tensor
    metrics: list[dict[str, Tensor]] = field(default_factory=list)
    state: State = field(default_factory=dict)


def collate_labels(items: Sequence[Item], device: torch.device) -> dict[str, Any]:
    """Labels of a micro-batch: numeric ones as float32 [n], others as lists; a response's own labels go by
    "role.name", concatenated in row order."""
    labels: dict[str, Any] = {}
    for name in sorted({key for item in items for key in item.labels}):
        values = [item.labels.get(name) for item in items]
        labels[name] = _column(values, device)
    for role in sorted({role for item in items for role in item.row_labels}):
        rows = [row for item in items for row in item.row_labels.get(role, ())]
        for name in sorted({key for row in rows for key in row}):
            labels[f"{role}.{name}"] = _column([row.get(name) for row in rows], device)
    return labels


def _column(values: list[Any], device: torch.device) -> Any:
    if all(isinstance(v, int | float) or v is None for v in values):
        column = torch.tensor([torch.nan if v is None else float(v) for v in values])
        return column.to(device, non_blocking=True)  # built there, the host would wait for the device
    return values


def draw_seeds(engine: Engine, items: Sequence[Item], purpose: str = "draw") -> list[int]:
    """One seed per sample for timestep, noise and caption dropout."""
    epochs = [i.epoch if engine.num_draws is None else i.epoch % engine.num_draws for i in items]
    return [derive_seed(engine.seed, e, i.id, purpose) for e, i in zip(epochs, items, strict=True)]


Ready = dict[tuple[str, ...], tuple[Batch, Draw]]


def score(
    engine: Engine, micro: Micro, source: str, roles: Sequence[str], purpose: str, ready: Ready | None = None
) -> dict[str, LogProbs]:
    """Scores of some roles by one live source; a graph is kept where gradients are enabled.

    `ready` holds batches and draws that another source has already been given, by roles.
    """
    ready = {} if ready is None else ready
    if tuple(roles) not in ready:
        ready[tuple(roles)] = batch_and_draw(engine, micro, roles, purpose)
    return by_role(engine, *ready[tuple(roles)], source)


def batch_and_draw(engine: Engine, micro: Micro, roles: Sequence[str], purpose: str) -> tuple[Batch, Draw]:
    """Rows of some roles with everything random, or inverted, about scoring them."""
    seeds = draw_seeds(engine, micro.items, purpose)
    batch = engine.adapter.collate(micro.encoded, roles)
    draw = engine.adapter.draw(batch, seeds)
    if engine.objective.inversion is not None:
        draw = inverted(engine, micro, batch, draw, seeds)
    return batch, draw


def by_role(engine: Engine, batch: Batch, draw: Draw, source: str) -> dict[str, LogProbs]:
    """Scores of a whole batch by one live source, role by role."""
    small = engine.chunked and not torch.is_grad_enabled()
    parts = []
    for piece in pieces(draw, engine.step_chunk if small else None):
        scored: LogProbs = engine.scorer(batch, piece, engine.needs, source)
        parts.append({role: scored.take(batch.rows_of(role)) for role in batch.roles})
    return parts[0] if len(parts) == 1 else join_units(parts)


def frozen_scores(
    engine: Engine, micro: Micro, policy: Mapping[str, LogProbs], purpose: str, ready: Ready
) -> dict[str, dict[str, LogProbs]]:
    """Scores of every frozen source the objective names: live, or from the cache."""
    scores: dict[str, dict[str, LogProbs]] = {}
    for source, roles in engine.objective.roles.items():
        if source == "policy":
            continue
        if engine.cached is None:
            with torch.no_grad():
                for group in _groups(engine, roles):
                    scores.setdefault(source, {}).update(score(engine, micro, source, group, purpose, ready))
        else:
            surrogate = engine.adapter.kind == "surrogate"
            seeds = draw_seeds(engine, micro.items, purpose) if surrogate else [None] * len(micro.items)
            scores[source] = {
                role: engine.cached.load(micro.encoded, role, seeds, _like(engine, policy, role))
                for role in roles
            }
    return scores


def _like(engine: Engine, policy: Mapping[str, LogProbs], role: str) -> LogProbs:
    """The policy's scores of a role's rows, or, of a view that it does not score, of those it is made of."""
    return policy[role] if role in policy else policy[engine.objective.views[role].of]


def score_all(engine: Engine, micro: Micro, purpose: str = "draw") -> dict[str, dict[str, LogProbs]]:
    """Scores of every source. Live frozen sources go first: some are the policy with other weights in it.
    An objective on sampled media has none."""
    if engine.objective.rollout is not None:
        return {"policy": {}}
    ready: Ready = {}
    frozen = {} if engine.cached is not None else frozen_scores(engine, micro, {}, purpose, ready)
    policy: dict[str, LogProbs] = {}
    for group in _groups(engine, engine.objective.roles["policy"]):
        with torch.set_grad_enabled(torch.is_grad_enabled() and group[0] not in engine.objective.detached):
            policy |= score(engine, micro, "policy", group, purpose, ready)
    if engine.cached is not None:
        frozen = frozen_scores(engine, micro, policy, purpose, ready)
    return {"policy": policy, **frozen}


def labels_of(engine: Engine, micro: Micro, purpose: str = "draw") -> Mapping[str, Any]:
    """Labels of a micro-batch, with the reward of what the policy samples where the objective is on that."""
    rollout = engine.objective.rollout
    if rollout is None:
        return micro.labels
    assert engine.reward is not None
    batch = engine.adapter.collate(micro.encoded, engine.objective.roles["policy"])
    seeds = draw_seeds(engine, micro.items, purpose)
    pixels: Tensor = engine.scorer(batch, {}, engine.needs, "policy", rollout, seeds)
    return {**micro.labels, "reward": engine.reward.reward(pixels, micro.labels["caption"])}


def _groups(engine: Engine, roles: Sequence[str]) -> list[list[str]]:
    """Roles scored in one forward: those with a graph first, then the detached ones, then those that the
    policy does not score. Every source is scored in the same groups: another batch shape would round
    differently, and log-ratios would not start at 0."""
    detached, ours = engine.objective.detached, engine.objective.roles["policy"]
    groups = [
        [role for role in roles if role in ours and role not in detached],
        [role for role in roles if role in detached],
        [role for role in roles if role not in ours],
    ]
    return [group for group in groups if group]


def apply_objective(
    engine: Engine, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean
) -> Outcome:
    """Score transforms, then the loss, in full precision."""
    metrics: dict[str, Tensor] = {}
    with torch.autocast(engine.world.device.type, enabled=False):
        for transform in engine.transforms:
            changed = transform(scores, labels, all_mean)
            scores, metrics = changed.scores, metrics | changed.metrics
        outcome = engine.objective(scores, labels, state, all_mean)
    return replace(outcome, metrics=metrics | outcome.metrics)


def compute_gradients(engine: Engine, micros: Sequence[Micro], state: State, step: int) -> StepResult:
    """Accumulate the gradient of the step's weighted mean loss into the policy's parameters.

    The loss of a sample counts weight / (sum of weights over the whole step and all processes), whatever the
    split into micro-batches and processes.
    """
    total = engine.world.sum(torch.cat([micro.weight for micro in micros]).sum())
    scale = engine.world.size / total.clamp(min=1e-12)  # DDP averages gradients over processes
    way = _deferred if engine.deferred else _chunked if engine.chunked else _direct
    result = way(engine, micros, state, scale, step)
    result.loss = engine.world.sum(result.loss) / engine.world.size
    return result


def _direct(engine: Engine, micros: Sequence[Micro], state: State, scale: Tensor, step: int) -> StepResult:
    result = StepResult(torch.zeros((), device=engine.world.device), state=state)
    coupled = engine.batch_coupled
    for index, micro in enumerate(micros):
        with _sync_on_last(engine, index, micros):
            _seed_dropout(engine, step, index)
            scores, labels = score_all(engine, micro), labels_of(engine, micro)
            mean = engine.world.mean if coupled else _uncoupled
            outcome = apply_objective(engine, scores, labels, result.state, mean)
            loss = (outcome.loss * micro.weight).sum() * scale
            engine.accelerator.backward(loss)
        result.loss += loss.detach()
        result.state = outcome.state
        result.metrics.append(sample_metrics(scores, outcome))
    return result


def _uncoupled(values: Tensor, where: Tensor | None = None) -> Tensor:
    raise RuntimeError("all_mean couples samples: the objective must set batch_coupled = True")


def _chunked(engine: Engine, micros: Sequence[Micro], state: State, scale: Tensor, step: int) -> StepResult:
    parts: list[dict[str, dict[str, LogProbs]]] = []
    for index, micro in enumerate(micros):
        _seed_dropout(engine, step, index)
        with torch.no_grad():
            parts.append(score_all(engine, micro))
    sizes = [len(micro.items) for micro in micros]
    leaves = [_as_leaves(part["policy"], engine.objective.detached) for part in parts]
    scores = join_scores([{**part, "policy": leaf} for part, leaf in zip(parts, leaves, strict=True)], sizes)
    labels = collate_labels([item for micro in micros for item in micro.items], engine.world.device)
    weight = torch.cat([micro.weight for micro in micros])
    outcome = apply_objective(engine, scores, labels, state, engine.world.mean)
    loss = (outcome.loss * weight).sum() * scale
    loss.backward()

    live = [role for role in engine.objective.roles["policy"] if role not in engine.objective.detached]
    for index, (micro, leaf) in enumerate(zip(micros, leaves, strict=True)):
        _seed_dropout(engine, step, index)
        batch, draw = batch_and_draw(engine, micro, live, "draw")
        parted, begin = pieces(draw, engine.step_chunk), 0
        for piece in parted:
            last = piece is parted[-1]
            with _sync_on_last(engine, index, micros) if last else engine.accelerator.no_sync(engine.scorer):
                again = by_role(engine, batch, piece, "policy")
                products = [_product(again[role], leaf[role], begin) for role in live]
                engine.accelerator.backward(torch.stack(products).sum())
            begin += again[live[0]].values.shape[1]
    return StepResult(loss.detach(), [sample_metrics(scores, outcome)], outcome.state)


def _deferred(engine: Engine, micros: Sequence[Micro], state: State, scale: Tensor, step: int) -> StepResult:
    """One sample at a time, a few steps of its path at a time. The loss depends on the steps through one
    number z, so their gradients of z are summed as they come and multiplied by d loss / d z at the end."""
    objective, result = engine.objective, StepResult(torch.zeros((), device=engine.world.device), state=state)
    assert isinstance(objective, PathObjective)
    trained = [p for p in engine.adapter.policy.parameters() if p.requires_grad]
    for index, micro in enumerate(micros):
        _seed_dropout(engine, step, index)
        batch, draw = batch_and_draw(engine, micro, objective.roles["policy"], "draw")
        before = [p.grad for p in trained]
        for parameter in trained:
            parameter.grad = None
        numbers: list[Tensor] = []
        scored: list[dict[str, LogProbs]] = []
        for piece in pieces(draw, engine.step_chunk):
            scored.append(by_role(engine, batch, piece, "policy"))
            number = objective.partial({"policy": scored[-1]}, micro.labels)
            engine.accelerator.backward(number.sum())
            numbers.append(number.detach())
            scored[-1] = {role: one.detached() for role, one in scored[-1].items()}
        whole = torch.stack(numbers).sum(0).requires_grad_()
        outcome = objective.finish(whole, result.state)
        loss = (outcome.loss * micro.weight).sum() * scale
        (slope,) = torch.autograd.grad(loss, whole)
        for parameter, kept in zip(trained, before, strict=True):
            if parameter.grad is not None:
                parameter.grad.mul_(slope.squeeze())
                parameter.grad = parameter.grad if kept is None else parameter.grad.add_(kept)
            else:
                parameter.grad = kept
        result.loss += loss.detach()
        result.state = outcome.state
        result.metrics.append(sample_metrics({"policy": join_units(scored)}, outcome))
    return result


def _as_leaves(policy: Mapping[str, LogProbs], detached: Sequence[str]) -> dict[str, LogProbs]:
    """Scores whose values, and errors if any, collect derivatives."""

    leaves = {}
    for role, scored in policy.items():
        if role not in detached:
            error = None if scored.error is None else scored.error.detach().clone().requires_grad_()
            scored = replace(scored, values=scored.values.detach().clone().requires_grad_(), error=error)
        leaves[role] = scored
    return leaves


def _product(scored: LogProbs, leaf: LogProbs, begin: int = 0) -> Tensor:
    """<scores, derivative of the loss with respect to them>: its gradient is the gradient of the loss. The
    scores may be those of some units only, from unit `begin` on."""
    product = scored.values.new_zeros(())
    for ours, collected in ((scored.values, leaf.values), (scored.error, leaf.error)):
        if ours is not None and collected is not None and collected.grad is not None:
            product = product + (ours * collected.grad[:, begin : begin + ours.shape[1]]).sum()
    return product


def _sync_on_last(engine: Engine, index: int, micros: Sequence[Micro]):  # type: ignore[no-untyped-def]
    """Processes exchange gradients once per step, with the last micro-batch."""
    last = index == len(micros) - 1
    return nullcontext() if last else engine.accelerator.no_sync(engine.scorer)


def _seed_dropout(engine: Engine, step: int, index: int) -> None:
    """Dropout follows (run seed, step, process, micro-batch): resuming and re-scoring repeat it."""
    if engine.dropout:
        torch.manual_seed(derive_seed(engine.seed, step, f"{engine.world.rank}/{index}", "dropout"))
