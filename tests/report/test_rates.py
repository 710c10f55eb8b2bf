"""Win rates by score and by group as tables."""

from dataclasses import replace

from fake_run import MakeRun, pictured, told

from mmalign.evaluation.comparison import Answered, Comparison, JudgeNote
from mmalign.report.rates import by_group, by_score
from mmalign.report.write import write_report
from mmalign.types import Part


def judged() -> Comparison:
    """A second, unchecked judge whose scores are the first one's solidity."""
    base = pictured(12)
    rows = tuple(
        replace(
            row,
            base_scores={**row.base_scores, "Ink/score": row.base_scores["solidity"]},
            tuned_scores={**row.tuned_scores, "Ink/score": row.tuned_scores["solidity"]},
        )
        for row in base.rows
    )
    notes = (JudgeNote("Shapes", "Reads shapes."), JudgeNote("Ink", "Counts.", True, "Ink/"))
    groups = {row.id: {"style": ("photo" if i % 3 else "anime",)} for i, row in enumerate(rows)}
    return replace(base, rows=rows, judges=notes).grouped(groups)


def test_every_score_has_a_rate(make_run: MakeRun) -> None:
    page = write_report(make_run(comparison=judged())).read_text()
    table = page.split("win rate on")[1].split("</table>")[0]
    for name in ("score", "Ink/score *", "faithfulness", "solidity"):
        assert f">{name}<" in table
    rate = judged().win_rates["Ink/score"]
    low, high = rate.resampled
    assert f">{100 * rate.low:.0f}% to {100 * rate.high:.0f}%<" in table
    assert f">{100 * low:.0f}% to {100 * high:.0f}%<" in table
    assert f">{rate.wins} / {rate.losses}<" in table
    assert "* Scored by Ink: Counts. Not checked against published numbers." in page
    assert "Scored by Shapes: Reads shapes.<" in page


def test_every_group_has_rates_for_every_judge() -> None:
    first, second = (str(table) for table in by_group(judged()))
    assert "judged by score" in first and "<details open" in first and "<details>" in second
    assert "style: anime" in first and "style: photo" in second and ">4<" in first and ">8<" in first


def test_a_rate_that_all_prompts_share_has_no_resampled_interval() -> None:
    rows = [replace(row, base_scores={"score": 0.0}, tuned_scores={"score": 1.0}) for row in told(5).rows]
    won = Comparison(tuple(rows), 0).grouped({row.id: {"k": ("g",)} for row in rows})
    (table,) = by_group(won)
    assert ">57% to 100%<" in str(table) and ">100% to 100%<" not in str(table)


def test_the_columns_are_explained_once() -> None:
    page = str(by_score(judged())) + "".join(map(str, by_group(judged())))
    assert page.count("Of the decided: the share of won prompts") == 1
    rows = tuple(
        replace(row, base_scores={"score": 0.0}, tuned_scores={"score": 1.0}) for row in judged().rows
    )
    alone = Comparison(rows, 0)
    assert by_score(alone) is None and len(by_group(alone)) == 1
    assert str(by_group(alone)[0]).count("Of the decided: the share of won prompts") == 1


def test_one_score_and_no_group_need_no_table() -> None:
    rows = [replace(row, base_scores={"score": 0.0}, tuned_scores={"score": 1.0}) for row in told(3).rows]
    assert by_score(Comparison(tuple(rows), 0)) is None and by_group(Comparison(tuple(rows), 0)) == []


def test_how_large_the_wins_are(make_run: MakeRun) -> None:
    """The base's quartiles are 1.5 and 4.5, so that changes above 0.15 are visible."""
    text, rows = Part("text", "x"), []
    for place, change in enumerate((0.0001, 0.0001, 0.0001, 0.0001, 0.5, -0.5, 0.0)):
        scores = {"score": float(place)}, {"score": place + change}
        rows.append(Answered(f"r{place}", "x", (), text, text, *scores))
    page = write_report(make_run(comparison=Comparison(tuple(rows), 0))).read_text()
    assert "Visible wins</h3><strong>14%</strong><p>1 visibly lost; visible is a change above 0.150" in page
    assert "median change 1e\u22124, 95% interval \u22120.500 to 0.500" in page
    assert "score <b>1.0001</b>" in page and "score <b>1.0000</b>" in page  # not 1 against 1
    assert "5% of the interquartile range" in page
    assert "<td>3.0000</td><td>3.0001</td>" in page
