"""Win rates by score and by group as tables."""

from dataclasses import replace

from fake_run import MakeRun, pictured, told

from mmalign.evaluation.comparison import Comparison, JudgeNote
from mmalign.report.rates import by_group, by_score
from mmalign.report.write import write_report


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


def test_one_score_and_no_group_need_no_table() -> None:
    rows = [replace(row, base_scores={"score": 0.0}, tuned_scores={"score": 1.0}) for row in told(3).rows]
    assert by_score(Comparison(tuple(rows), 0)) is None and by_group(Comparison(tuple(rows), 0)) == []
