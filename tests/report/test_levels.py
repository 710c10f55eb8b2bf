"""Charts by noise level: what is drawn where, and that nothing of it goes among the other curves."""

from mmalign.report.curves import charts
from mmalign.report.levels import is_level, noise_levels
from mmalign.report.series import Metrics, Series

LEVELS = ("0.250", "0.750")


def measured(steps: tuple[int, ...], reference: bool = True) -> Metrics:
    """Errors 0.1 and 0.2 at the two levels, the policy's 10 % higher with every evaluation."""
    held: dict[str, Series] = {"level/pairs": Series(list(steps), [32.0] * len(steps))}
    for place, level in enumerate(LEVELS):
        base = 0.1 * (place + 1)
        for side in "wl":
            rising = [base * (1 + 0.1 * i) for i in range(len(steps))]
            held[f"level/{level}/err_{side}"] = Series(list(steps), rising)
            if reference:
                held[f"level/{level}/ref_err_{side}"] = Series(list(steps), [base] * len(steps))
        if reference:
            held[f"level/{level}/implicit_acc"] = Series(list(steps), [0.5] * len(steps))
    if reference:
        for name in ("Dw", "Dl", "implicit_acc", "pair_acc"):
            held[f"level/{name}"] = Series(list(steps), [0.01 * i for i in range(len(steps))])
    return Metrics({"loss": Series([1], [0.7])}, held)


def test_what_is_a_single_level() -> None:
    assert is_level("level/0.062/err_w")
    assert not any(is_level(name) for name in ("level/Dw", "level/Dw/std", "level/pairs", "loss", "z/std"))


def test_five_charts_with_a_reference() -> None:
    html = str(noise_levels(measured((0, 10, 20))))
    assert html.count("<figure") == 5 and "32 held-out pairs at 2 fixed noise levels" in html
    for word in ("Error by noise level", "Rise of the error by noise level", "Accuracy over training"):
        assert word in html
    assert html.count(">noise level<") == 3 and html.count(">step<") == 2
    assert "step 10" in html and "step 20" in html


def test_a_rise_is_told_in_percent_of_the_reference() -> None:
    html = str(noise_levels(measured((0, 10, 20))))
    rise = html.split("<b>Rise of the error by noise level</b>")[1].split("</figure>")[0]
    # 10 % and 20 % at every level, the axis runs a little beyond both
    assert rise.count("<polyline") == 4 + 2 and ">10<" in rise and ">20<" in rise  # lines, and legend


def test_a_rise_since_the_start_is_drawn_where_it_was_measured() -> None:
    plain = measured((0, 10, 20))
    assert "winner, since the start" not in str(noise_levels(plain))
    rises = {f"level/rise_{side}": Series([0, 10, 20], [0.0, 0.1, 0.2]) for side in "wl"}
    html = str(noise_levels(Metrics(plain.train, {**plain.heldout, **rises})))
    assert "winner, since the start" in html and "loser, since the start" in html
    assert html.count("<figure") == 5


def test_without_a_reference_start_and_end_are_compared() -> None:
    html = str(noise_levels(measured((0, 10), reference=False)))
    assert html.count("<figure") == 1 and "winner at the start" in html
    assert "winner at the start" not in str(noise_levels(measured((0,), reference=False)))


def test_many_evaluations_are_thinned_out() -> None:
    html = str(noise_levels(measured(tuple(range(0, 100, 10)))))
    accuracy = html.split("<b>Accuracy by noise level</b>")[1].split("</figure>")[0]
    assert accuracy.count("<li>") == 4 and "step 90" in accuracy and "step 0" in accuracy


def test_levels_are_no_curves_over_steps() -> None:
    assert [chart.name for chart in charts(measured((0, 10)))] == ["loss"]
    assert noise_levels(Metrics({}, {})) is None
