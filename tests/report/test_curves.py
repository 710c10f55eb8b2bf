"""Which curves share a chart, and where their points are drawn."""

import re
import xml.etree.ElementTree as ET

import pytest

from mmalign.report.curves import Chart, charts, draw
from mmalign.report.plot import Line, number, tick_labels, ticks
from mmalign.report.series import Metrics, Series


def series(*values: float, steps: list[int] | None = None, broken: list[int] | None = None) -> Series:
    return Series(steps or list(range(1, len(values) + 1)), list(values), broken or [])


def drawn(chart: Chart, last_step: int) -> ET.Element:
    """The figure as a tree; parsing fails on markup that is not well-formed."""
    return ET.fromstring(str(draw(chart, last_step)))


def points(figure: ET.Element, name: str = "polyline") -> list[list[tuple[float, float]]]:
    """Coordinates of the main picture's lines, in order."""
    found = [e.attrib["points"] for e in figure.findall(f"./svg/{name}")]
    return [[(float(x), float(y)) for x, y in re.findall(r"([\d.-]+),([\d.-]+)", text)] for text in found]


def test_train_and_heldout_share_axes_and_roles_share_a_chart() -> None:
    one = series(1.0)
    names = ["zeta", "lr", "reward/margin", "reward/chosen", "reward/rejected", "loss"]
    names += ["error/chosen", "reference_error/chosen", "implicit_acc", "implicit_acc/t1", "implicit_acc/t2"]
    found = charts(Metrics(dict.fromkeys(names, one), {"loss": one, "reward/chosen": one}))
    assert [chart.name for chart in found] == [
        "loss", "implicit_acc", "reward/margin", "reward", "error", "implicit_acc by noise", "lr", "zeta",
    ]  # fmt: skip
    labels = {chart.name: [line.label for line in chart.lines] for chart in found}
    assert labels["loss"] == ["training", "held-out"]
    assert labels["reward"] == ["chosen", "chosen, held-out", "rejected"]
    assert labels["error"] == ["chosen", "reference, chosen"]
    reward = next(chart for chart in found if chart.name == "reward")
    assert [line.colour for line in reward.lines] == [0, 0, 1]


def test_margins_with_and_without_the_picture_share_a_chart() -> None:
    one = series(0.5)
    names = ["image_share", "margin_with_image", "margin_without_image"]
    names += ["ranking_with_image", "ranking_without_image"]
    margins, rankings = charts(Metrics({}, dict.fromkeys(names, one)))
    assert [line.label for line in margins.lines] == [f"{name}, held-out" for name in names[:3]]
    assert [line.label for line in rankings.lines] == [f"{name}, held-out" for name in names[3:]]
    assert "with and without the picture" in str(draw(margins, 10))
    labels = [e.text for e in drawn(rankings, 10).findall("./svg/text") if e.attrib["class"] == "ylabel"]
    assert (labels[0], labels[-1]) == ("0.0", "1.0")  # a share: the whole axis


def test_charts_of_rounds_say_what_they_show() -> None:
    one = series(0.5)
    names = ["bdhs_margin", "bdhs_accuracy", "own_margin", "own_accuracy", "round/score"]
    for chart in charts(Metrics(dict.fromkeys(names, one), {})):
        caption = drawn(chart, 10).find("figcaption")
        assert caption is not None and not set(names) & set(caption.itertext())
        assert chart.name != "round" or "Judge's score" in caption.itertext()
        assert len(" ".join(caption.itertext())) > 40


def test_winner_and_loser_have_their_colours_in_every_chart() -> None:
    one = series(1.0, 2.0)
    names = ["Dw", "Dl", "logp/chosen", "logp/rejected", "error/rejected", "reference_error/chosen"]
    found = {chart.name: chart for chart in charts(Metrics(dict.fromkeys(names, one), {}))}
    colours = {name: [(line.label, line.colour) for line in chart.lines] for name, chart in found.items()}
    assert colours["rise"] == [("winner, Dw", 0), ("loser, Dl", 1)]
    assert colours["logp"] == [("chosen", 0), ("rejected", 1)]
    assert colours["error"] == [("rejected", 1), ("reference, chosen", 0)]


def test_a_start_where_all_pairs_tie_is_no_accuracy_of_0() -> None:
    held = {"accuracy": series(0.0, 0.0, 0.75), "implicit_acc": series(0.5, 0.25, 0.8)}
    (fair, strict) = charts(Metrics({}, held))
    assert strict.lines[0].series.values == [0.0, 0.75]  # the second is wrong indeed
    assert "no point where all pairs tie" in str(draw(strict, 3)) and fair.name == "implicit_acc"
    assert [
        chart.name for chart in charts(Metrics({}, {"accuracy": series(0.0), "implicit_acc": series(0.5)}))
    ] == ["implicit_acc"]


def test_equal_curves_are_drawn_once() -> None:
    held = {"accuracy": series(0.0, 0.6, 0.7), "implicit_acc": series(0.5, 0.6, 0.7)}
    train = {"nll": series(3.0, 2.0), "loss": series(3.0, 2.0), "flat": series(1.0), "level_": series(1.0)}
    found = charts(Metrics(train, held))
    assert [(chart.name, chart.same) for chart in found] == [
        ("loss", ("nll",)), ("implicit_acc", ("accuracy",)), ("flat", ()), ("level_", ()),
    ]  # fmt: skip
    assert "the same curve: Negative log-likelihood" in str(draw(found[0], 2))


def test_parts_of_a_sum_say_so() -> None:
    (part,) = charts(Metrics({"dpo/loss": series(0.7, 0.6), "dpo/accuracy": series(0.5, 0.6)}, {}))
    assert "Part dpo</b> <span>of a summed objective, before its weight" in str(draw(part, 2))


@pytest.mark.parametrize(("count", "height", "marks"), [(4, "150", 4), (5, "230", 0)])
def test_short_runs_have_marks_in_a_lower_chart(count: int, height: str, marks: int) -> None:
    figure = drawn(charts(Metrics({"loss": series(*range(count))}, {}))[0], count)
    svg = figure.find("./svg")
    assert svg is not None and svg.attrib["viewBox"] == f"0 0 420 {height}"
    assert len(svg.findall("./circle")) == marks
    lowest = max(float(e.attrib["y"]) for e in svg.findall("./text"))
    assert lowest < float(height)


def test_many_roles_are_spread_over_charts() -> None:
    found = charts(Metrics({f"logp/r{i}": series(1.0) for i in range(8)}, {}))
    assert [(chart.name, len(chart.lines)) for chart in found] == [("logp", 6), ("logp (2)", 2)]


def test_points_lie_where_the_axes_say() -> None:
    line = Line("training", series(0.0, 1.0, 0.25, steps=[0, 10, 20]), False, 0)
    figure = drawn(Chart("accuracy", (line,)), 20)
    (left, zero), (middle, one), (right, quarter) = points(figure)[0]
    assert middle == pytest.approx((left + right) / 2, abs=0.1)
    assert quarter == pytest.approx(zero + 0.25 * (one - zero), abs=0.1) and one < zero  # y grows downwards
    grid = [e for e in figure.findall("./svg/line") if e.attrib["class"] in ("grid", "zero")]
    labels = [e.text for e in figure.findall("./svg/text") if e.attrib["class"] == "ylabel"]
    places = dict(zip(labels, (float(e.attrib["y1"]) for e in grid), strict=True))
    assert places["0.0"] == pytest.approx(zero, abs=0.1) and places["1.0"] == pytest.approx(one, abs=0.1)


def test_long_curves_are_drawn_as_means_with_their_range() -> None:
    line = Line("training", series(*[0.0, 1.0] * 300), False, 0)
    figure = drawn(Chart("accuracy", (line,)), 600)
    (curve,), (band,) = points(figure), points(figure, "polygon")
    assert len(curve) == 60 and len(band) == 120
    assert len({y for _, y in curve}) == 1  # every block of ten has mean one half
    top, bottom = min(y for _, y in band), max(y for _, y in band)
    assert curve[0][1] == pytest.approx((top + bottom) / 2, abs=0.1)


def test_every_heldout_point_has_its_dot() -> None:
    line = Line("held-out", series(*range(200)), True, 1)
    figure = drawn(Chart("loss", (line,)), 200)
    assert len(figure.findall("./svg/circle")) == len(points(figure)[0]) == 200


def test_a_curve_breaks_at_values_that_are_not_finite() -> None:
    line = Line("training", series(1.0, 2.0, 3.0, 4.0, steps=[1, 2, 4, 5], broken=[3]), False, 0)
    figure = drawn(Chart("loss", (line,)), 5)
    assert [len(curve) for curve in points(figure)] == [2, 2]
    marks = [e for e in figure.findall("./svg/line") if e.attrib["class"] == "broken"]
    assert [mark.findtext("title") for mark in marks] == ["not finite at step 3"]


@pytest.mark.parametrize("values", [(), (3.0,), (0.0, 0.0), (-5.0, -5.0), (1e300, -1e300), (1e-12, 2e-12)])
def test_odd_curves_are_drawn(values: tuple[float, ...]) -> None:
    figure = drawn(Chart("loss", (Line("training", series(*values, broken=[1]), False, 0),)), 0)
    for curve in points(figure):
        assert all(0 <= y <= 230 for _, y in curve)
    assert bool(points(figure)) == bool(values)


def test_metric_names_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    metrics = Metrics({evil: series(1.0), f"reward/{evil}": series(1.0), "reward/x": series(1.0)}, {})
    text = "".join(str(draw(chart, 1)) for chart in charts(metrics))
    assert "<script" not in text and "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("low", "high", "places"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0, 400, [0, 100, 200, 300, 400]), (-1.1, 0.4, [-1, -0.5, 0])],
)
def test_ticks_are_round(low: float, high: float, places: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(places)


def test_tick_labels_tell_the_ticks_apart() -> None:
    assert tick_labels([0.6931, 0.69315, 0.6932]) == ["0.69310", "0.69315", "0.69320"]
    assert tick_labels([-1.0, -0.5, 0.0]) == ["\u22121.0", "\u22120.5", "0.0"]
    assert tick_labels([9.5e-5, 1e-4]) == ["9.5e\u22125", "1e\u22124"]
    assert tick_labels([0.0, 100.0, 200.0]) == ["0", "100", "200"]
    assert tick_labels([2.0]) == ["2"]


def test_numbers_are_short() -> None:
    values = [0.0, 0.123456, -12.3456, 1e-5, 0.00012, -250000.0, 1e300]
    shown = ["0", "0.1235", "\u221212.35", "1e\u22125", "1.2e\u22124", "\u22122.5e5", "1e300"]
    assert [number(value) for value in values] == shown
