"""Signs of a collapse from the errors of a few evaluations, worked by hand."""

import json
from pathlib import Path

from mmalign.training.collapse import BOTH, WINNER, Gap, Watch, signs


def values(winner: float, loser: float, std: float = 0.04) -> dict[str, float]:
    """16 pairs: the standard error is a quarter of the deviation."""
    return {
        "level/Dw": winner,
        "level/Dl": loser,
        "level/Dw/std": std,
        "level/Dl/std": std,
        "level/ref_err_w": 0.2,
        "level/pairs": 16.0,
    }


def gap(winner: float, loser: float, std: float = 0.04) -> Gap:
    found = Gap.of(1, values(winner, loser, std))
    assert found is not None
    return found


def test_a_rise_counts_from_two_standard_errors() -> None:
    assert gap(0.0, 0.0).winner_se == 0.01
    assert not gap(0.0199, 0.0).winner_up and gap(0.0201, 0.0).winner_up
    assert gap(0.0, 0.03).loser_up and not gap(-0.03, -0.03).loser_up
    assert gap(0.004, 0.03).words == "winner's error +0.004 (+2.00%), loser's +0.03"


def test_signs() -> None:
    start, up, more = gap(0, 0, 0), gap(0.03, 0.05), gap(0.04, 0.06)
    assert signs([]) == signs([up]) == frozenset()
    assert signs([start, up]) == {BOTH}
    assert signs([up, more]) == {BOTH, WINNER}
    assert signs([more, up]) == {WINNER}  # up, but falling again
    assert signs([start, gap(0.005, 0.06)]) == frozenset()  # the winner's rise may be chance
    assert signs([start, gap(-0.03, 0.06)]) == frozenset()  # as it should be
    assert signs([gap(0.03, -0.05), gap(0.04, -0.06)]) == {WINNER}


def test_an_evaluation_without_a_reference_says_nothing() -> None:
    assert Gap.of(0, {"level/err_w": 0.1}) is None
    assert Gap.of(0, values(float("nan"), 0.1)) is None


def moving(winner: float, loser: float, rise_w: float, rise_l: float) -> dict[str, float]:
    """Against a reference that follows the policy; the error of winners was 0.1 at the start."""
    rises = {
        "level/rise_w": rise_w,
        "level/rise_l": rise_l,
        "level/rise_w/std": 0.04,
        "level/rise_l/std": 0.04,
        "level/start_err_w": 0.1,
    }
    return values(winner, loser) | rises


def test_a_moving_reference_hides_nothing() -> None:
    """Both errors climb by 0.01 and more with every evaluation, and the reference stays 0.005 behind."""
    run = [(0, 0.0, 0.0), (10, 0.03, 0.03), (20, 0.04, 0.05)]
    told = [Gap.of(step, moving(0.005, 0.005, up, also)) for step, up, also in run]
    assert [one is not None and one.since_start for one in told] == [True] * 3
    watch = Watch()
    said = [watch.see(step, moving(0.005, 0.005, up, also)) for step, up, also in run]
    assert said == [
        [],
        [
            "held-out noise levels, step 10: both errors rise against the start: "
            "winner's error +0.03 (+30.00%), loser's +0.03"
        ],
        [
            "held-out noise levels, step 20: the winner's error stays above its own at the start: "
            "winner's error +0.04 (+40.00%), loser's +0.05"
        ],
    ]
    blind = Watch()
    assert not any(blind.see(step, values(0.005, 0.005)) for step, _, _ in run)


def test_a_watch_says_when_a_sign_begins_and_only_then(tmp_path: Path) -> None:
    run = [(0, values(0, 0, 0)), (10, values(0.03, 0.05)), (20, values(0.04, 0.06)), (30, values(0.05, 0.07))]
    watch = Watch()
    said = {step: watch.see(step, {f"heldout/{k}": v for k, v in one.items()}) for step, one in run}
    assert [len(lines) for lines in said.values()] == [0, 1, 1, 0]
    assert said[10] == [
        "held-out noise levels, step 10: both errors rise against the reference: "
        "winner's error +0.03 (+15.00%), loser's +0.05"
    ]
    assert "the winner's error stays above" in said[20][0]
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": step, **{f"heldout/{k}": v for k, v in one.items()}} for step, one in run]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    again = Watch()
    again.replay(path, 10)
    assert [again.see(step, {f"heldout/{k}": v for k, v in one.items()}) for step, one in run[2:]] == [
        said[20],
        [],
    ]
    Watch().replay(tmp_path / "none.jsonl", 10)
