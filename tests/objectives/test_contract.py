"""What every objective must do, run over every file of the folder with every adapter it may meet."""

import inspect
import re
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, dataclass, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fixtures import (
    SAMPLES,
    changed_scores,
    exact,
    lengths,
    pick,
    predicted,
    reward,
    run,
    surrogate,
    units,
)
from torch import Tensor
from whole import carrying, wider

from mmalign._names import KINDS, class_of, names
from mmalign.catalogue import lacking
from mmalign.types import NEEDS, LogProbs, Objective

NAMES = names(KINDS["objective"])
ADAPTERS = [class_of(KINDS["model"], name) for name in names(KINDS["model"])]
OFFERS = {
    kind: frozenset[str]().union(*(cls.offers for cls in ADAPTERS if cls.kind == kind))
    for kind in sorted({cls.kind for cls in ADAPTERS})
}
# what no adapter may offer yet, but objectives are written for
OFFERS |= {
    "surrogate": (OFFERS["surrogate"] | {"segments"}) - {"transition"},  # those steps are "trajectory"
    "trajectory": OFFERS.get("trajectory", frozenset()) | {"ratio", "transition"},
}
CASES = [
    (name, kind)
    for name in NAMES
    for kind, offers in OFFERS.items()
    if not lacking(class_of(KINDS["objective"], name)().needs, offers)
    and class_of(KINDS["objective"], name)().rollout is None  # has no scores: test_reward_losses
]


@dataclass
class Step:
    """An objective with scores and labels for it; `leaves` are what the policy's gradients reach."""

    objective: Objective
    scores: dict[str, dict[str, LogProbs]]
    labels: dict[str, Any]
    leaves: dict[str, Tensor]


def make(name: str, kind: str, dtype: torch.dtype = torch.float32, size: float | None = None) -> Step:
    """Scores of every role an objective asks for; with `size` every likelihood or error is that large."""
    objective = class_of(KINDS["objective"], name)()
    generator = torch.Generator().manual_seed(len(name))
    scores: dict[str, dict[str, LogProbs]] = {}
    leaves: dict[str, Tensor] = {}
    for source, roles in objective.roles.items():
        scores[source] = {}
        for i, role in enumerate(roles):
            values = torch.rand(SAMPLES, 5, generator=generator, dtype=torch.float64)
            if size is not None:
                sign = 1.0 if kind == "surrogate" or (i + len(source)) % 2 else -1.0
                values = torch.full_like(values, sign * size)
            leaf = (values * 0.2 if kind == "surrogate" and size is None else values).to(dtype)
            leaf = leaf.clone().requires_grad_(source == "policy")
            leaves |= {role: leaf} if source == "policy" else {}
            scores[source][role] = scored(kind, objective, leaf, i)
    labels = {name: label(name, scores["policy"], dtype) for name in objective.fields}
    return Step(objective, scores, labels, leaves)


def scored(kind: str, objective: Objective, leaf: Tensor, role: int) -> LogProbs:
    """Scores of one role from a leaf [S, 5]."""
    if kind == "reward":
        found = reward(leaf[:, 0] - leaf[:, 1])
        return replace(found, written=exact(-leaf, lengths(role))) if "written" in objective.needs else found
    if kind == "trajectory":  # steps hardly move: clipped ratios have no gradient
        mask = lengths(0)
        return units(1.0 - 4e-5 * leaf, "step", mask)
    if kind == "exact":
        # roles made of a side have its tokens
        plain = exact(-leaf, lengths(role % 2))
        read = {"distribution", "tokens"} & objective.needs
        return carrying(plain, role) if read else plain
    if "segments" in objective.needs:
        return units(-0.5 * leaf, "segment")
    if "prediction" in objective.needs:
        return predicted(leaf[:, None], torch.full_like(leaf[:, None], 0.1))
    return surrogate(leaf)


def label(name: str, policy: Mapping[str, LogProbs], dtype: torch.dtype) -> Any:
    """A label of all samples that leaves no sample without a gradient."""
    if name in ("segments", "step_margins"):
        counts = policy["chosen"].mask.sum(-1).tolist()
        size = 1 if name == "segments" else 3
        return [[size * (-1) ** (i + k) for k in range(n)] for i, n in enumerate(counts)]
    if name == "advantage":
        return torch.arange(1, SAMPLES + 1).to(dtype)
    return (torch.arange(SAMPLES) % 2).to(dtype)


def test_every_adapter_kind_is_covered() -> None:
    assert {"exact", "surrogate"} <= set(OFFERS)
    scored = {name for name in NAMES if class_of(KINDS["objective"], name)().rollout is None}
    assert {name for name, _ in CASES} == scored and len(scored) > 20


@pytest.mark.parametrize("name", NAMES)
def test_a_frozen_dataclass_that_defaults_construct(name: str) -> None:
    cls = class_of(KINDS["objective"], name)
    objective = cls()
    assert is_dataclass(cls) and isinstance(objective, Objective)
    for field in fields(cls):
        with pytest.raises(FrozenInstanceError):
            setattr(objective, field.name, 1)
    assert objective.roles["policy"]
    assert objective.needs <= set(NEEDS)
    assert set(objective.detached) <= set(objective.roles["policy"])
    assert all(view.of in objective.roles["policy"] for view in objective.views.values())
    assert set(objective.views) <= {role for roles in objective.roles.values() for role in roles}


@pytest.mark.parametrize("name", [*NAMES, *names(KINDS["transforms"])])
def test_the_docstring_cites_a_source_or_is_a_plain_likelihood(name: str) -> None:
    kind = KINDS["objective" if name in NAMES else "transforms"]
    text = inspect.getdoc(class_of(kind, name)) or ""
    assert re.search(r"arXiv \d{4}\.\d{5}", text) or "Negative log-likelihood" in text


@pytest.mark.parametrize("name", [*NAMES, *names(KINDS["transforms"])])
def test_the_page_of_objectives_names_it(name: str) -> None:
    page = Path(str(inspect.getsourcefile(Objective))).parent / "objectives" / "README.md"
    assert f"`{name}`" in page.read_text()


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_one_finite_loss_per_sample_and_detached_metrics(name: str, kind: str) -> None:
    step = make(name, kind)
    outcome = run(step.objective, step.scores, step.labels)
    assert outcome.loss.shape == (SAMPLES,) and outcome.loss.dtype == torch.float32
    assert torch.isfinite(outcome.loss).all() and outcome.loss.requires_grad
    assert outcome.metrics
    for key, value in outcome.metrics.items():
        assert value.shape == (SAMPLES,) and not value.requires_grad, key
    assert set(outcome.state) == set(step.objective.initial_state())


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_gradients_reach_every_role_that_is_not_detached(name: str, kind: str) -> None:
    step = make(name, kind)
    run(step.objective, step.scores, step.labels).loss.sum().backward()
    for role, leaf in step.leaves.items():
        if role in step.objective.detached:
            assert leaf.grad is None, role
        else:
            assert leaf.grad is not None and leaf.grad.any(-1).all(), role


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_permuting_samples_permutes_losses(name: str, kind: str) -> None:
    step = make(name, kind, torch.float64)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    permuted = changed_scores(step.scores, lambda side: side.take(order))
    labels = pick(step.labels, order)
    loss = run(step.objective, step.scores, step.labels).loss
    assert torch.allclose(run(step.objective, permuted, labels).loss, loss[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_sample_alone_has_the_loss_it_has_in_a_batch(name: str, kind: str) -> None:
    step = make(name, kind, torch.float64)
    loss = run(step.objective, step.scores, step.labels).loss
    one = torch.tensor([2])
    alone = run(
        step.objective,
        changed_scores(step.scores, lambda side: side.take(one)),
        pick(step.labels, one),
    ).loss
    assert torch.allclose(alone, loss[one], rtol=0, atol=1e-12) or step.objective.batch_coupled


@pytest.mark.parametrize(("name", "kind"), [c for c in CASES if c[1] in ("exact", "trajectory")])
def test_padding_changes_nothing(name: str, kind: str) -> None:
    step = make(name, kind, torch.float64)

    loss = run(step.objective, step.scores, step.labels).loss
    padded = run(step.objective, changed_scores(step.scores, lambda side: wider(side, 4)), step.labels).loss
    assert torch.allclose(padded, loss, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [1e4, 1e-9])
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_extreme_scores_give_finite_losses_and_gradients(
    name: str, kind: str, size: float, dtype: torch.dtype
) -> None:
    step = make(name, kind, dtype, size)
    loss = run(step.objective, step.scores, step.labels).loss
    loss.sum().backward()
    assert torch.isfinite(loss).all()
    assert all(torch.isfinite(leaf.grad).all() for leaf in step.leaves.values() if leaf.grad is not None)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_float32_agrees_with_float64_under_autocast_too(name: str, kind: str) -> None:
    wide, narrow = make(name, kind, torch.float64), make(name, kind, torch.float32)
    expected = run(wide.objective, wide.scores, wide.labels).loss
    loss = run(narrow.objective, narrow.scores, narrow.labels).loss
    assert torch.allclose(loss.double(), expected, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = run(narrow.objective, narrow.scores, narrow.labels).loss
    assert mixed.dtype == torch.float32 and torch.equal(mixed, loss)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_missing_role_or_source_is_an_error(name: str, kind: str) -> None:
    step = make(name, kind)
    for source, roles in step.objective.roles.items():
        for role in roles:
            without = {**step.scores, source: {r: s for r, s in step.scores[source].items() if r != role}}
            with pytest.raises(KeyError, match=role):
                run(step.objective, without, step.labels)
        with pytest.raises(KeyError, match=source):
            run(step.objective, {s: r for s, r in step.scores.items() if s != source}, step.labels)


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_exactly_the_named_labels_are_read(name: str, kind: str) -> None:
    step = make(name, kind)
    for field in step.objective.fields:
        with pytest.raises(KeyError, match=field):
            run(step.objective, step.scores, {k: v for k, v in step.labels.items() if k != field})
