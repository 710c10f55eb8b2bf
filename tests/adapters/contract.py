"""What every adapter must hold, as functions over any adapter and a few of its samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmalign.types import Batch, LogProbs, PreferenceSample, derive_seed

Key = tuple[str, str, int]  # sample id, role, slot


@dataclass(frozen=True)
class Case:
    """An adapter, samples it accepts, their roles, and what it is asked for."""

    adapter: Any
    samples: tuple[PreferenceSample, ...]
    roles: tuple[str, ...] = ("chosen", "rejected")
    needs: frozenset[str] = frozenset()

    def batch(self, samples: Sequence[PreferenceSample] | None = None) -> Batch:
        """The samples prepared, encoded and collated."""
        chosen = self.samples if samples is None else samples
        prepared = [self.adapter.prepare(sample, self.roles) for sample in chosen]
        return self.adapter.collate(self.adapter.encode(prepared), self.roles)

    def score(
        self, samples: Sequence[PreferenceSample] | None = None, seed: int = 0, model: nn.Module | None = None
    ) -> tuple[Batch, LogProbs]:
        """Log-probs of the samples under draws derived from `seed`."""
        batch = self.batch(samples)
        seeds = [derive_seed(seed, 0, name, "draw") for name in batch.sample_ids]
        model = self.adapter.policy if model is None else model
        return batch, self.adapter.logprobs(model, batch, self.adapter.draw(batch, seeds), self.needs)


def by_row(batch: Batch, scores: LogProbs) -> dict[Key, Tensor]:
    """The scored units of every row, without padding."""
    return {
        (batch.sample_ids[int(s)], batch.roles[int(r)], int(k)): scores.values[i][scores.mask[i]].detach()
        for i, (s, r, k) in enumerate(zip(batch.row_sample, batch.row_role, batch.row_slot, strict=True))
    }


def gap(first: dict[Key, Tensor], second: dict[Key, Tensor]) -> float:
    """Largest difference of any unit; the rows must be the same."""
    assert first.keys() == second.keys()
    return max(float((first[k] - second[k]).abs().max()) for k in first)


def check_shapes(case: Case) -> None:
    """Values and mask are [N, K], float32, with at least one unit in each row; rows name their samples."""
    batch, scores = case.score()
    assert scores.values.shape == scores.mask.shape
    assert len(scores.values) == len(batch.row_role) == len(scores.sample) == len(scores.slot)
    assert scores.values.dtype == torch.float32
    assert scores.mask.dtype == torch.bool
    assert bool(scores.mask.any(-1).all())
    assert bool(torch.isfinite(scores.values).all())
    assert scores.kind == case.adapter.kind
    for role in case.roles:
        rows = batch.rows_of(role)
        assert batch.row_sample[rows].tolist() == sorted(batch.row_sample[rows].tolist())


def check_same_draw_same_scores(case: Case) -> None:
    """Scoring twice with the same seeds gives the same bits."""
    with torch.no_grad():
        (_, first), (_, second) = case.score(seed=1), case.score(seed=1)
    assert torch.equal(first.values, second.values)


def check_batching_does_not_matter(case: Case, tolerance: float = 1e-6) -> None:
    """Alone, together or in another order, and next to longer rows: the same scores."""
    with torch.no_grad():
        together = by_row(*case.score())
        reversed_order = by_row(*case.score(tuple(reversed(case.samples))))
        alone: dict[Key, Tensor] = {}
        for sample in case.samples:
            alone |= by_row(*case.score([sample]))
    assert gap(together, reversed_order) <= tolerance
    assert gap(together, alone) <= tolerance


def check_gradients_reach_the_policy_only(case: Case) -> None:
    """Every trainable weight of the policy that takes part gets a gradient, no other network has one."""
    policy = case.adapter.policy
    policy.zero_grad(set_to_none=True)
    _, scores = case.score()
    scores.total().sum().backward()
    reached = [n for n, p in policy.named_parameters() if p.grad is not None and bool(p.grad.abs().sum() > 0)]
    trainable = [n for n, p in policy.named_parameters() if p.requires_grad]
    assert reached
    assert set(reached) <= set(trainable)
    mine = {id(p) for p in policy.parameters()}
    for value in vars(case.adapter).values():
        if isinstance(value, nn.Module):
            others = [p for p in value.parameters() if id(p) not in mine]
            assert all(p.grad is None and not p.requires_grad for p in others)
    policy.zero_grad(set_to_none=True)


def check_reload(
    case: Case, folder: Path, lora: str | None, load: Callable[[Path], nn.Module], tolerance: float = 1e-6
) -> None:
    """What `save` wrote gives the same scores when the upstream library loads it, and equal bytes when
    written again."""
    adapter = case.adapter
    adapter.save(adapter.policy, folder / "one", lora)
    adapter.save(adapter.policy, folder / "two", lora)
    files = [p.relative_to(folder / "one") for p in sorted((folder / "one").rglob("*")) if p.is_file()]
    assert files
    for file in files:
        assert (folder / "one" / file).read_bytes() == (folder / "two" / file).read_bytes(), file
    with torch.no_grad():
        ours = by_row(*case.score())
        theirs = by_row(*case.score(model=load(folder / "one")))
    assert gap(ours, theirs) <= tolerance
