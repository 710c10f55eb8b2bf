"""Every rule fires where it should and stays silent where it should."""

from dataclasses import replace
from typing import Any

import pytest

from mmalign.evaluation.comparison import Answered, Comparison
from mmalign.report.alarms import find_alarms
from mmalign.report.series import Metrics, Series
from mmalign.training.record import RunRecord
from mmalign.types import Part


def record(**changes: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "config_hash": "0", "seed": 0, "processes": 1, "device": "cpu", "threads": 1, "versions": {},
        "git": None, "data": {}, "status": "finished", "step": 10,
    }  # fmt: skip
    return RunRecord(**(fields | changes))


def curve(*values: float, broken: tuple[int, ...] = ()) -> Series:
    return Series(list(range(len(values))), list(values), list(broken))


def judged(
    *pairs: tuple[float, float], iou: tuple[float, float] = (0.0, 0.0), step: int | None = None
) -> Comparison:
    text = Part("text", "x")
    rows = [
        Answered(
            str(i), "x", (), text, text, {"score": b, "iou": iou[0]}, {"score": t, "iou": iou[1] - 0.001 * i}
        )
        for i, (b, t) in enumerate(pairs)
    ]
    return Comparison(tuple(rows), 0, step)


def said(
    run: RunRecord | None = None,
    train: dict[str, Series] | None = None,
    heldout: dict[str, Series] | None = None,
    comparison: Comparison | None = None,
) -> list[str]:
    found = find_alarms(run or record(), Metrics(train or {}, heldout or {}), comparison)
    return [f"{alarm.level}: {alarm.text}" for alarm in found]


def test_a_good_run_has_none() -> None:
    heldout = {"chosen_falling": curve(0.5, 0.3), "implicit_acc": curve(0.5, 0.8), "loss": curve(0.7, 0.5)}
    heldout |= {"error/chosen": curve(0.3, 0.29), "error/rejected": curve(0.3, 0.4)}
    heldout |= {"reference_error/chosen": curve(0.3, 0.3), "reference_error/rejected": curve(0.3, 0.3)}
    good = judged(*[(0.0, 1.0)] * 20)
    assert said(record(skipped={"captions_cut": 3}), {"loss": curve(0.7, 0.6)}, heldout, good) == [
        "caution: iou fell from 0 to \u22120.0095 and wins only 2% of 20 prompts, 95% interval 0% to 20%: "
        "is the total gained at its expense?"
    ]


def test_both_errors_rising_is_a_collapse() -> None:
    heldout = {"error/chosen": curve(0.3, 0.33), "error/rejected": curve(0.3, 0.36)}
    reference = {"reference_error/chosen": curve(0.3, 0.3), "reference_error/rejected": curve(0.3, 0.3)}
    (line,) = said(heldout=heldout | reference)
    assert line.startswith("alarm: collapse") and "chosen 0.3 to 0.33, held-out" in line
    assert said(heldout=heldout) == [line]  # without a reference: since the start
    assert said(train=heldout | reference) == [line.replace("held-out", "training")]
    assert said(heldout=heldout | reference | {"error/chosen": curve(0.3, 0.31)}) == []


def test_the_reference_explains_an_error_that_only_the_draws_raised() -> None:
    train = {"error/chosen": curve(0.3, 0.5), "reference_error/chosen": curve(0.3, 0.5)}
    assert said(train=train) == []


@pytest.mark.parametrize(
    ("heldout", "word"),
    [
        ({"chosen_falling": curve(0.5, 0.51)}, "caution: chosen falling: at the end 51% of the held-out"),
        ({"implicit_acc": curve(0.6, 0.49)}, "caution: held-out implicit accuracy ends at 49%"),
        ({"loss": curve(0.5, 0.75)}, "caution: held-out loss ends above its start: 0.5 to 0.75"),
        (
            {"loss": curve(0.5, 0.4, broken=(1, 2))},
            "alarm: held-out loss is not finite 2 times, first at step 1",
        ),
    ],
)
def test_curves(heldout: dict[str, Series], word: str) -> None:
    (line,) = said(heldout=heldout)
    assert line.startswith(word)


def test_the_record() -> None:
    lines = said(record(status="stopped", step=7, skipped={"steps with NaN or inf": 2}))
    assert lines[0].startswith("alarm: 2 steps with NaN or inf")
    assert lines[1] == "caution: the run is stopped at step 7, not finished"


def test_the_evaluation() -> None:
    assert said(comparison=judged(*[(1.0, 0.0)] * 20))[0].startswith("alarm: the tuned model is worse")
    (line,) = said(comparison=judged((0.0, 1.0), (1.0, 0.0)))
    assert line.startswith("caution: the win rate cannot be told from chance on 2 prompts: 50%")
    tied = said(comparison=judged(*[(1.0, 1.0)] * 20, iou=(1.0, 0.5)))
    assert any("100% of the prompts are ties" in line for line in tied)
    assert any(line.startswith("caution: iou fell from 1 to 0.4905") for line in tied)
    many_ties = said(comparison=judged(*[(1.0, 1.0)] * 20, *[(0.0, 1.0)] * 12))
    assert not any("ties" in line for line in many_ties)


def test_a_cost_may_fall_but_not_rise() -> None:
    fell, rose = (judged(*[(0.0, 1.0)] * 20, iou=sides) for sides in ((1.0, 0.0), (0.0, 1.0)))
    assert any("iou fell" in line for line in said(comparison=fell))
    fell, rose = (replace(one, costs=("iou",)) for one in (fell, rose))
    assert not any("iou" in line for line in said(comparison=fell))
    assert any("iou rose from 0 to" in line for line in said(comparison=rose))


def test_a_score_that_loses_by_its_win_rate_alone_is_named() -> None:
    """Fifteen small losses and five large gains: the mean rises, and most prompts are worse."""
    text = Part("text", "x")
    rows = [
        Answered(str(i), "x", (), text, text, {"score": 0.0, "iou": 0.5}, {"score": 1.0, "iou": 0.5 + change})
        for i, change in enumerate([-0.001] * 15 + [0.4] * 5)
    ]
    (line,) = said(comparison=Comparison(tuple(rows), 0))
    assert line.startswith(
        "caution: iou rose from 0.5 to 0.5992 and wins only 25% of 20 prompts, 95% interval"
    )
    costly = Comparison(tuple(rows), 0, costs=("iou",))  # less is better: it wins 75 %
    assert "wins only" not in said(comparison=costly)[0]
    small = [replace(row, tuned_scores={"score": 1.0, "iou": 0.5 - 1e-7}) for row in rows]
    assert "iou fell from 0.5000000 to 0.4999999 and" in said(comparison=Comparison(tuple(small), 0))[0]


@pytest.mark.parametrize(
    ("step", "status", "stale"),
    [
        (None, "finished", False),
        (10, "finished", False),
        (4, "finished", True),
        (4, "running", True),
        (14, "running", False),  # the record of a run under way holds the step it began at
        (14, "stopped", True),
    ],
)
def test_an_evaluation_of_other_weights(step: int | None, status: str, stale: bool) -> None:
    lines = said(record(status=status), comparison=judged(*[(0.0, 1.0)] * 20, step=step))
    found = [line for line in lines if "evaluated at" in line]
    assert found == [f"caution: evaluated at step {step}, the run is at 10: evaluate again"] * stale


def levels(winner: tuple[float, ...], loser: tuple[float, ...], std: float = 0.04) -> dict[str, Series]:
    """Rises at fixed noise levels of 16 pairs, whose reference error is 0.2."""
    same = {"Dw/std": std, "Dl/std": std, "pairs": 16.0, "ref_err_w": 0.2}
    found = {f"level/{name}": curve(*[value] * len(winner)) for name, value in same.items()}
    return found | {"level/Dw": curve(*winner), "level/Dl": curve(*loser)}


def test_errors_that_rise_at_fixed_noise_levels() -> None:
    (line,) = said(heldout=levels((0.0, 0.0, 0.025, 0.03), (0.0, 0.03, 0.04, 0.05)))
    assert line.startswith("alarm: both errors rise against the reference since step 2")
    assert "+0.03 (+15.00%)" in line
    (small,) = said(heldout=levels((0.0, 0.008), (0.0, 0.03), std=0.01))
    assert small.startswith("caution: both errors rise against the reference since step 1")
    (stays,) = said(heldout=levels((0.0, 0.05, 0.06, 0.055), (0.0, -0.1, -0.2, -0.3)))
    assert stays.startswith("caution: the winner's error has stayed above the reference's since step 2")
    assert said(heldout=levels((0.0, -0.05, -0.06), (0.0, 0.1, 0.2))) == []  # as it should be
    assert said(heldout=levels((0.0, 0.01), (0.0, 0.01))) == []  # may be chance


def test_errors_that_rise_in_training_where_nothing_else_was_measured() -> None:
    flat, up = [0.001, -0.001, 0.0] * 3, [0.001 * i for i in range(9)]
    (both,) = said(train={"Dw": curve(*up), "Dl": curve(*up)})
    assert both.startswith("caution: both errors rise against the reference from the first to the last third")
    (one,) = said(train={"Dw": curve(*up), "Dl": curve(*flat)})
    assert one.startswith("caution: the winner's error rises")
    assert said(train={"Dw": curve(*flat), "Dl": curve(*up)}) == []
    assert said(train={"Dw": curve(*up[:8]), "Dl": curve(*up[:8])}) == []  # too few lines
    fixed = levels((0.0, -0.05), (0.0, 0.1))
    assert said(train={"Dw": curve(*up), "Dl": curve(*up)}, heldout=fixed) == []
