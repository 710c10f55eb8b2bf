"""Objectives that set an answer against itself under another picture refuse one that was cut elsewhere."""

import pytest
import torch
from fixtures import ALL_MEAN, run, tokens, with_ids

from mmalign.objectives._transforms.segment_weights import SegmentWeights
from mmalign.objectives.mdpo import MDPO
from mmalign.objectives.re_align import ReAlign
from mmalign.objectives.vdpo import VDPO
from mmalign.types import LogProbs, Objective, UserError

LONG, SHORT = [-1.0, -1.0, -1.0, -1.0], [-1.0, -1.0]


def scores(view: str, cut: list[float]) -> dict[str, dict[str, LogProbs]]:
    """Policy and reference alike, the view cut to another length; no ids, as nobody asked for them."""
    sides = {"chosen": LONG, "rejected": LONG, view: cut}
    return {
        source: {r: tokens([v], 4 - len(v)) for r, v in sides.items()} for source in ("policy", "reference")
    }


@pytest.mark.parametrize(
    ("objective", "view"),
    [(MDPO(corruption="other_image"), "chosen_other_image"), (ReAlign(), "chosen_retrieved")],
)
def test_unequal_lengths_are_refused(objective: Objective, view: str) -> None:
    assert torch.isfinite(run(objective, scores(view, LONG)).loss).all()
    with pytest.raises(UserError, match="cut to another length under the other picture"):
        run(objective, scores(view, SHORT))


def test_a_crop_is_the_same_picture() -> None:
    """Only other pictures take another number of places."""
    assert torch.isfinite(run(MDPO(), scores("chosen_crop", SHORT)).loss).all()


def test_weights_reach_roles_that_the_reference_alone_has() -> None:
    """V-DPO may take the likelihood without the picture from the reference."""
    ids = {"chosen": [[1, 2, 30, 5]], "rejected": [[1, 2, 40, 5]]}
    pair = {role: with_ids(tokens([LONG]), ids[role]) for role in ("chosen", "rejected")}
    given = {"policy": pair, "reference": {**pair, **{f"{r}_gray": pair[r] for r in pair}}}
    changed = SegmentWeights(normalise=False)(given, {}, ALL_MEAN).scores
    assert changed["reference"]["chosen_gray"].values.tolist() == changed["policy"]["chosen"].values.tolist()
    assert torch.isfinite(run(VDPO(unguided="reference"), changed).loss).all()
