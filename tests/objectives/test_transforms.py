"""What every score transform must do, run over every file of the folder."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from fixtures import ALL_MEAN, SAMPLES, changed_scores, exact, lengths, pick, predicted
from torch import Tensor

from mmalign._names import KINDS, class_of, names
from mmalign.types import NEEDS, LogProbs, Transform

TRANSFORMS = names(KINDS["transforms"])


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_constructs_by_default(name: str) -> None:
    transform = class_of(KINDS["transforms"], name)()
    assert isinstance(transform, Transform) and transform.needs <= set(NEEDS)


def paired(name: str) -> tuple[Transform, dict[str, dict[str, LogProbs]], dict[str, Any], dict[str, Tensor]]:
    """A transform, scores and labels of pairs it is written for, and what the policy's gradients reach."""
    transform: Transform = class_of(KINDS["transforms"], name)()
    generator = torch.Generator().manual_seed(len(name))
    scores: dict[str, dict[str, LogProbs]] = {"policy": {}, "reference": {}}
    leaves = {}
    for source, sides in scores.items():
        for i, role in enumerate(("chosen", "rejected")):
            leaf = torch.rand(SAMPLES, 1, 3, 4, 4, generator=generator, dtype=torch.float64)
            if source == "policy":
                leaves[role] = leaf.requires_grad_()
            whole = "prediction" in transform.needs
            sides[role] = (
                predicted(leaf, leaf.detach().flip(0)) if whole else exact(-leaf[:, 0, 0, :, 0], None)
            )
            if not whole:
                mask = lengths(i)[:, :4]
                ids = torch.arange(4) + 10 * torch.arange(SAMPLES)[:, None] + 100 * i
                sides[role] = replace(sides[role], mask=mask, ids=ids.masked_fill(~mask, -1))
    masks = torch.rand(SAMPLES, 3, 5, generator=generator).tolist()
    return transform, scores, dict.fromkeys(transform.fields, masks), leaves


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_keeps_gradients_and_gives_detached_metrics(name: str) -> None:
    transform, scores, labels, leaves = paired(name)
    changed = transform(scores, labels, ALL_MEAN)
    assert {s: set(r) for s, r in changed.scores.items()} == {s: set(r) for s, r in scores.items()}
    for key, value in changed.metrics.items():
        assert value.shape == (SAMPLES,) and not value.requires_grad, key
    policy = changed.scores["policy"]
    (policy["chosen"].total() - 0.5 * policy["rejected"].total()).sum().backward()
    assert all(leaf.grad is not None and leaf.grad.flatten(1).any(-1).all() for leaf in leaves.values())
    for sides in changed.scores.values():
        for side in sides.values():  # surrogates stay -w e / 2, here with w = 1
            assert side.error is None or torch.allclose(side.values, -0.5 * side.error)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_treat_every_sample_by_itself_in_any_order(name: str) -> None:
    transform, scores, labels, _ = paired(name)
    whole = transform(scores, labels, ALL_MEAN).scores["policy"]
    order = torch.tensor([3, 0, 5, 1, 4, 2])

    def reordered(side: LogProbs) -> LogProbs:
        return replace(side.take(order), sample=torch.arange(SAMPLES))

    permuted = transform(changed_scores(scores, reordered), pick(labels, order), ALL_MEAN).scores["policy"]
    for role, side in whole.items():
        assert torch.allclose(permuted[role].total(), side.total()[order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", [n for n in TRANSFORMS if class_of(KINDS["transforms"], n)().fields])
def test_transforms_read_the_labels_they_name(name: str) -> None:
    transform, scores, labels, _ = paired(name)
    for field in transform.fields:
        with pytest.raises(KeyError, match=field):
            transform(scores, {k: v for k, v in labels.items() if k != field}, ALL_MEAN)
