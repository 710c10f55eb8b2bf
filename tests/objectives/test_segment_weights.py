"""Segment weights: which tokens a correction replaced, and worked losses of the weighted scores."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from adapters.tiny_vlm import build_vlm, picture, save_vlm, vlm_pair
from fixtures import ALL_MEAN, exact, near, run, tokens, with_ids
from torch import Tensor

from mmalign.objectives._edits import changed_tokens, edit_weights
from mmalign.objectives._transforms import segment_weights
from mmalign.objectives._transforms.segment_weights import SegmentWeights
from mmalign.objectives.dpo import DPO
from mmalign.objectives.ipo import IPO
from mmalign.objectives.mdpo import MDPO
from mmalign.training._joining import join_scores
from mmalign.types import LogProbs, PreferenceSample

CHOSEN, REJECTED = [1, 2, 30, 40], [1, 2]
WEIGHTS = {"chosen": [1.0, 1.0, 5.0, 5.0], "rejected": [1.0, 5.0]}


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The weights of the worked numbers in place of a comparison."""

    def weights(sides: Mapping[str, LogProbs], weight: float) -> dict[str, Tensor]:
        found = {}
        for role, side in sides.items():
            row = torch.tensor(WEIGHTS[role.partition("_")[0]], dtype=torch.float64)
            ones = torch.ones(1, side.mask.shape[1] - len(row), dtype=torch.float64)
            found[role] = torch.cat([torch.where(row > 1, weight, row)[None], ones], 1)
        return found

    monkeypatch.setattr(segment_weights, "edit_weights", weights)


def worked(extra: int = 0) -> dict[str, dict[str, LogProbs]]:
    """One pair of four and of two tokens, whose ids play no part where weights are given."""
    rows = {
        "policy": {"chosen": [-0.1, -0.2, -0.3, -0.4], "rejected": [-0.5, -1.0]},
        "reference": {"chosen": [-0.1, -0.25, -0.6, -0.5], "rejected": [-0.4, -0.7]},
    }
    ids = {"chosen": CHOSEN, "rejected": REJECTED}
    return {s: {r: with_ids(tokens([v], extra), [ids[r]]) for r, v in x.items()} for s, x in rows.items()}


def moved(scores: dict[str, dict[str, LogProbs]], **options: object) -> dict[str, dict[str, LogProbs]]:
    changed = SegmentWeights(**options)(scores, {}, ALL_MEAN).scores  # type: ignore[arg-type]
    return {source: dict(roles) for source, roles in changed.items()}


# ---------------------------------------------------------------- what counts as changed


def test_the_worked_comparison() -> None:
    """A replaced stretch counts on both sides; a token added at the end does not."""
    rejected, chosen = [5, 6, 7, 20, 21, 8, 9, 10], [5, 6, 7, 30, 8, 9, 10, 11]
    assert changed_tokens(rejected, chosen) == ([3, 4], [3])


def test_insertions_and_deletions_are_no_changes() -> None:
    assert changed_tokens([1, 2, 3, 4, 5, 6], [1, 2, 3, 9, 9, 4, 5, 6]) == ([], [])
    assert changed_tokens([1, 2, 3, 9, 9, 4, 5, 6], [1, 2, 3, 4, 5, 6]) == ([], [])
    assert changed_tokens([1, 2, 3], [1, 2, 3]) == ([], [])
    assert changed_tokens([], [1, 2]) == ([], [])


def test_the_token_that_ends_answers_joins_nothing_to_a_change() -> None:
    """A sentence put behind an answer, or cut off its end, replaces nothing."""
    end = 2
    assert changed_tokens([5, 6, 7, 20, end], [5, 6, 7, 20, 30, 31, 32, 33, end]) == ([], [])
    assert changed_tokens([5, 6, 7, 20, 30, 31, end], [5, 6, 7, 20, end]) == ([], [])
    assert changed_tokens([5, 6, 7, 20, end], [5, 6, 7, 30, end]) == ([3], [3])


def test_short_matches_are_chance_except_at_the_beginning() -> None:
    # 7, 8 match in the midst: too short to keep
    assert changed_tokens([1, 2, 3, 50, 7, 8, 51, 4, 5, 6], [1, 2, 3, 60, 61, 7, 8, 62, 4, 5, 6]) == (
        [3, 4, 5, 6],
        [3, 4, 5, 6, 7],
    )
    assert changed_tokens([1, 50, 4, 5, 6], [1, 60, 4, 5, 6]) == ([1], [1])
    assert changed_tokens([50, 4, 5, 6, 9], [60, 4, 5, 6, 10]) == ([0, 4], [0, 4])


def test_nothing_alike_is_changed_all_through() -> None:
    assert changed_tokens([1, 2], [3, 4, 5]) == ([0, 1], [0, 1, 2])


# ---------------------------------------------------------------- worked losses


@pytest.mark.usefixtures("given")
@pytest.mark.parametrize("extra", [0, 3])
def test_worked_loss_of_normalised_scores(extra: int) -> None:
    scores = moved(worked(extra), gamma=5.0, normalise=True)
    outcome = run(DPO(beta=0.5), scores)
    assert near(outcome.metrics["reward/chosen"], [0.5 * 0.170833])
    assert near(outcome.metrics["reward/rejected"], [0.5 * -0.266667])
    assert near(outcome.loss, [0.589742])


@pytest.mark.usefixtures("given")
@pytest.mark.parametrize("extra", [0, 3])
def test_worked_loss_of_sums(extra: int) -> None:
    outcome = run(DPO(beta=0.5), moved(worked(extra), gamma=5.0, normalise=False))
    assert near(outcome.metrics["reward/chosen"], [0.5 * 2.05])
    assert near(outcome.metrics["reward/rejected"], [0.5 * -1.6])
    assert near(outcome.loss, [0.149469])


def test_the_comparison_and_the_weights_together() -> None:
    """Of three tokens the last two replaced, of two the last: (0.1 + 3 * 0.2 + 3 * 0.3) - (0.1 - 3 * 0.4)."""
    rows = {"chosen": [0.1, 0.2, 0.3], "rejected": [0.1, -0.4]}
    ids = {"chosen": [1, 30, 40], "rejected": [1, 50]}
    policy = {r: with_ids(tokens([v], 2), [ids[r]]) for r, v in rows.items()}
    zero = {r: replace(side, values=torch.zeros_like(side.values)) for r, side in policy.items()}
    scores = {"policy": policy, "reference": zero}
    margins = run(DPO(beta=1.0), moved(scores, gamma=3.0, normalise=False)).metrics
    assert near(margins["reward/chosen"], [1.6]) and near(margins["reward/rejected"], [-1.1])
    means = run(DPO(beta=1.0), moved(scores, gamma=3.0)).metrics
    assert near(means["reward/chosen"], [1.6 / 7]) and near(means["reward/rejected"], [-1.1 / 4])


def test_gamma_one_leaves_sums_alone() -> None:
    scores = worked(2)
    assert torch.equal(run(DPO(), moved(scores, gamma=1.0, normalise=False)).loss, run(DPO(), scores).loss)


@pytest.mark.usefixtures("given")
def test_the_gradient_of_a_replaced_token_is_gamma_times_another() -> None:
    scores = worked(2)
    leaf = scores["policy"]["chosen"].values.requires_grad_()
    run(DPO(), moved(scores, gamma=5.0)).loss.sum().backward()
    assert leaf.grad is not None and (leaf.grad[0, :4] < 0).all()
    assert near(leaf.grad[0, :4] / leaf.grad[0, 0], [1.0, 1.0, 5.0, 5.0], 1e-12)
    assert not leaf.grad[0, 4:].any()


@pytest.mark.usefixtures("given")
def test_the_share_of_changed_tokens_is_told() -> None:
    metrics = SegmentWeights()(worked(3), {}, ALL_MEAN).metrics
    assert metrics["changed_share"].tolist() == [0.5]


# ---------------------------------------------------------------- before other objectives


@pytest.mark.usefixtures("given")
def test_ipo_regresses_the_weighted_margin() -> None:
    loss = run(IPO(tau=0.5, reduction="sum"), moved(worked())).loss
    assert near(loss, [(0.170833 + 0.266667 - 1.0) ** 2])


@pytest.mark.usefixtures("given")
def test_a_spoilt_picture_has_the_weights_of_its_side() -> None:
    scores = worked()
    for roles in scores.values():
        roles["chosen_crop"] = replace(roles["chosen"], values=2 * roles["chosen"].values)
    outcome = run(MDPO(beta=0.5), moved(scores))
    assert near(outcome.metrics["reward/chosen_crop"], [0.5 * 2 * 0.170833])
    assert near(outcome.metrics["loss/pair"], [0.589742])


def test_roles_made_of_a_side_differ_as_it_does_and_others_do_not() -> None:
    side = tokens([[-0.1, -0.2, -0.3]])
    roles = {
        "chosen": with_ids(side, [[1, 30, 40]]),
        "rejected": with_ids(tokens([[-0.1, -0.2]], 2), [[1, 50]]),
        "chosen_crop": with_ids(side, [[1, 30, 40]]),
        "rejected_crop": with_ids(tokens([[-0.1, -0.2]], 1), [[1, 50]]),
        "other": with_ids(side, [[1, 30, 40]]),
    }
    weights = {role: row.tolist()[0] for role, row in edit_weights(roles, 5.0).items()}
    assert weights["chosen"] == weights["chosen_crop"] == [1.0, 5.0, 5.0]
    assert weights["rejected"] == [1.0, 5.0, 1.0, 1.0] and weights["rejected_crop"] == [1.0, 5.0, 1.0]
    assert weights["other"] == [1.0, 1.0, 1.0]


def test_micro_batches_joined_are_weighted_as_they_are_apart() -> None:
    first, second = worked(), worked(3)
    joined = join_scores([first, second], [1, 1])
    apart = [moved(part)["policy"] for part in (first, second)]
    together = moved(joined)["policy"]
    for role, side in together.items():
        assert near(side.total(), [part[role].total().item() for part in apart], 1e-12)
    # ids that were not asked for stay away
    without = [{s: {r: replace(x, ids=None) for r, x in v.items()} for s, v in first.items()}]
    assert join_scores(without, [1])["policy"]["chosen"].ids is None


def test_scores_without_ids_are_refused() -> None:
    with pytest.raises(ValueError, match="no ids"):
        edit_weights({"chosen": exact(torch.zeros(1, 2)), "rejected": exact(torch.zeros(1, 2))}, 2.0)


def test_gamma_must_be_above_zero() -> None:
    with pytest.raises(ValueError, match=r"^gamma: .*got 0"):
        SegmentWeights(gamma=0.0)


# ---------------------------------------------------------------- with a real model


def scored(folder: Path, pairs: list[PreferenceSample]) -> dict[str, LogProbs]:
    adapter = build_vlm(folder)
    roles = ("chosen", "rejected")
    batch = adapter.collate(adapter.encode([adapter.prepare(pair, roles) for pair in pairs]), roles)
    with torch.no_grad():
        found = adapter.logprobs(adapter.policy, batch, {}, frozenset({"units", "tokens"}))
    return {role: found.take(batch.rows_of(role)) for role in roles}


def test_a_pair_alone_and_in_a_batch_has_one_margin(tmp_path: Path) -> None:
    """Longer neighbours add padding, which no comparison may see."""
    save_vlm("llava", tmp_path)
    short = vlm_pair("a", (picture(1),), chosen="a red fox", rejected="a red box")
    long = vlm_pair("b", (picture(2),), chosen="one " * 9, rejected="the small fox sat on the blue box")

    def margin(pairs: list[PreferenceSample]) -> Tensor:
        sides = scored(tmp_path, pairs)
        changed = SegmentWeights()({"policy": sides}, {}, ALL_MEAN).scores["policy"]
        return changed["chosen"].total() - changed["rejected"].total()

    alone = margin([short])
    assert torch.allclose(margin([short, long])[:1], alone, atol=1e-5)
    assert torch.allclose(margin([long, short])[1:], alone, atol=1e-5)


def test_a_model_gives_the_ids_of_its_answers_if_asked(tmp_path: Path) -> None:
    save_vlm("llava", tmp_path)
    pairs = [vlm_pair("a", (picture(1),)), vlm_pair("b", chosen="yes")]
    side = scored(tmp_path, pairs)["chosen"]
    assert side.ids is not None and side.ids.device.type == "cpu"
    assert torch.equal(side.ids >= 0, side.mask)
    tokenizer = build_vlm(tmp_path).tokenizer
    texts = [
        tokenizer.decode([i for i in row if i >= 0], skip_special_tokens=True) for row in side.ids.tolist()
    ]
    assert [text.strip() for text in texts] == ["a small red fox", "yes"]
