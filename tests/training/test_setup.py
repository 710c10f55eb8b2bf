"""Micro-batches: the samples of a step by shape, in order, and the same loss however they are split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mmalign.config import Train
from mmalign.objectives.dpo import DPO
from mmalign.training.encoding import Encoder
from mmalign.training.setup import micro_batches
from mmalign.training.step import Engine, Micro, compute_gradients
from mmalign.training.world import World
from mmalign.types import Batch, Draw, Item, LogProbs, Prepared, Row

CPU = torch.device("cpu")


class Areas:
    """Scores a row by a weight times its sum; rows of one batch must be of one shape, as `stack` wants it."""

    kind = "exact"

    def __init__(self) -> None:
        self.weight = torch.nn.Parameter(torch.tensor(0.5))

    def fingerprint(self) -> str:
        return "areas"

    def encode(self, prepared: Sequence[Prepared]) -> list[Prepared]:
        return list(prepared)

    def shape_of(self, sample: Prepared) -> tuple[int, ...]:
        return tuple(sample.rows[0].data["x"].shape)

    def collate(self, encoded: Sequence[Prepared], roles: Sequence[str]) -> Batch:
        rows = [
            (i, row)
            for role in roles
            for i, one in enumerate(encoded)
            for row in one.rows
            if row.role == role
        ]
        return Batch(
            inputs={"x": torch.stack([row.data["x"] for _, row in rows])},
            roles=tuple(roles),
            row_role=torch.tensor([roles.index(row.role) for _, row in rows]),
            row_sample=torch.tensor([i for i, _ in rows]),
            row_slot=torch.tensor([row.slot for _, row in rows]),
            sample_ids=tuple(one.sample_id for one in encoded),
        )

    def draw(self, batch: Batch, seeds: Sequence[int]) -> Draw:
        return {}


class Scoring(torch.nn.Module):
    """The policy's scores, and those of a reference that is a tenth of it."""

    def __init__(self, adapter: Areas) -> None:
        super().__init__()
        self.weight = adapter.weight

    def forward(self, batch: Batch, draw: Draw, needs: frozenset[str], source: str) -> LogProbs:
        weight: Tensor = self.weight if source == "policy" else torch.tensor(0.05)
        values = weight * batch.inputs["x"].flatten(1).sum(1, keepdim=True)
        mask = torch.ones_like(values, dtype=torch.bool)
        return LogProbs(values, mask, "exact", "token", sample=batch.row_sample, slot=batch.row_slot)


@dataclass
class Accelerating:
    """The two things that a step asks of accelerate, for one process."""

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def no_sync(self, module: torch.nn.Module) -> Any:
        return torch.enable_grad()


def engine(chunked: bool = False) -> Engine:
    adapter: Any = Areas()
    accelerator: Any = Accelerating()
    return Engine(accelerator, World(0, 1, CPU), adapter, Scoring(adapter), DPO(beta=0.3), chunked=chunked)


def items(*shapes: tuple[int, ...]) -> list[Item]:
    """One pair per shape with numbers of its own; weights and margins differ."""
    made = []
    for i, shape in enumerate(shapes):
        stream = torch.Generator().manual_seed(i)
        rows = [Row(role, 0, {"x": torch.randn(shape, generator=stream)}) for role in ("chosen", "rejected")]
        made.append(Item(Prepared(f"s{i}", tuple(rows)), 0, {"margin": i / 4}, {}, 1.0 + i, f"row {i}"))
    return made


def split(one: Engine, given: Sequence[Item], size: int | None = None) -> list[Micro]:
    adapter: Any = one.adapter
    return micro_batches(one, Encoder(adapter, None), given, Train(steps=1, batch=8, micro_batch=size))


def ids(micros: Sequence[Micro]) -> list[list[str]]:
    return [[item.id for item in micro.items] for micro in micros]


WIDE, TALL, EVEN = (1, 2, 4), (1, 4, 2), (1, 3, 3)


def test_one_shape_is_split_by_number_alone() -> None:
    given = items(*[EVEN] * 5)
    assert ids(split(engine(), given)) == [["s0", "s1", "s2", "s3", "s4"]]
    assert ids(split(engine(), given, 2)) == [["s0", "s1"], ["s2", "s3"], ["s4"]]


def test_a_micro_batch_holds_one_shape_and_everything_that_belongs_to_it() -> None:
    given = items(WIDE, TALL, WIDE, EVEN, TALL, WIDE, WIDE)
    assert ids(split(engine(), given)) == [["s0", "s2", "s5", "s6"], ["s1", "s4"], ["s3"]]
    micros = split(engine(), given, 3)
    assert ids(micros) == [["s0", "s2", "s5"], ["s6"], ["s1", "s4"], ["s3"]]
    assert micros[2].weight.tolist() == [2.0, 5.0]
    assert micros[2].labels["margin"].tolist() == [0.25, 1.0]
    assert [one.sample_id for one in micros[2].encoded] == ["s1", "s4"]


def test_rows_that_were_skipped_are_left_out_and_a_step_of_none_is_refused() -> None:
    given = items(WIDE, TALL)
    empty = replace(given[0], prepared=Prepared("s0", ()))
    assert ids(split(engine(), [empty, given[1]])) == [["s1"]]
    with pytest.raises(RuntimeError, match="every row of this process's share"):
        split(engine(), [empty])


@pytest.mark.parametrize("chunked", [False, True])
def test_loss_and_gradient_are_the_weighted_means_over_all_shapes(chunked: bool) -> None:
    given = items(WIDE, TALL, WIDE, EVEN, TALL)
    one = engine(chunked)
    result = compute_gradients(one, split(one, given, 2), {}, 0)
    weight = torch.tensor(0.5, requires_grad=True)
    losses = []
    for item in given:
        chosen, rejected = (row.data["x"].sum() for row in item.prepared.rows)
        logit = 0.3 * (weight - 0.05) * (chosen - rejected)
        losses.append(item.weight * -torch.nn.functional.logsigmoid(logit))
    expected = torch.stack(losses).sum() / sum(item.weight for item in given)
    expected.backward()
    adapter: Any = one.adapter
    assert torch.allclose(result.loss, expected, atol=1e-6)
    assert weight.grad is not None and torch.allclose(adapter.weight.grad, weight.grad, atol=1e-6)
