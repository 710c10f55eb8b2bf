"""GREEN: the published score, verdicts that lack a part, and the judge that asks for them."""

from typing import Any

import pytest
from adapters import tiny_lm
from writers import own_writers

from mmalign.rewards._findings import Findings, clean, read_findings
from mmalign.rewards._scoring import score_readable
from mmalign.rewards.green import TEMPLATE, Green
from mmalign.types import Message, Part, UserError

KINDS = "abcdef"
WRITER = {"name": "python_function", "function": "writers.own_writers:graded"}


def errors(counts: str) -> str:
    return "\n".join(f"({k}) Some kind: {n}. a, b" for k, n in zip(KINDS, counts.split(), strict=True))


def verdict(significant: str = "2 0 1 0 0 0", insignificant: str = "0 0 0 4 0 0", matched: str = "4") -> str:
    return (
        "[Explanation]:\nTwo findings: 3 more.\n\n"
        f"[Clinically Significant Errors]:\n{errors(significant)}\n\n"
        f"[Clinically Insignificant Errors]:\n{errors(insignificant)}\n\n"
        f"[Matched Findings]:\n{matched}. heart; lungs"
    )


def test_the_score_is_the_published_one() -> None:
    found = read_findings(verdict())
    assert found == Findings(4, 3, 4) and found.green == pytest.approx(0.571429, abs=1e-6)
    assert Findings(0, 0, 0).green == Findings(0, 2, 0).green == 0.0
    assert Findings(3, 0, 5).green == 1.0
    assert read_findings(verdict().replace("[", "").replace("]", "").upper()) == found
    assert read_findings(verdict(matched="12")) == Findings(12, 3, 4)  # a number, not the text "1"


def test_a_verdict_without_all_its_parts_is_none() -> None:
    whole = verdict()
    sections = whole.split("\n\n")
    for place in range(1, 4):
        assert read_findings("\n\n".join(sections[:place] + sections[place + 1 :])) is None
    assert read_findings("\n\n".join(sections[1:])) == Findings(4, 3, 4)  # reasons need not be given
    for broken in (
        whole.replace("(c) Some kind: 1. a, b\n", "", 1),
        whole.replace("(c)", "(b)", 1),
        whole.replace("(a) Some kind: 2", "(a) Some kind: two", 1),
        whole.replace("(a) Some kind: 2", "(a) Some kind: 2.5", 1),
        whole.replace("(a) Some kind: 2", "(a) Some kind: 1-2", 1),
        whole.replace("4. heart", "heart"),
        f"{whole}\n\n{sections[3]}",
        TEMPLATE,  # the form that was asked for, sent back
        "",
    ):
        assert broken != whole and read_findings(broken) is None, broken


def test_texts_are_cleaned() -> None:
    assert clean(" [Heart] SIZE is normal.\nNo [**name**] ") == "heart size is normal.\nno **name**"


def told(monkeypatch: pytest.MonkeyPatch, *answers: str | None) -> list[str]:
    """Lets the writer give these answers in turn; returns the list of what it is asked."""
    asked: list[str] = []

    def write(turns: tuple[Message, ...], seed: int) -> str | None:
        asked.append(turns[0].parts[0].data)
        return answers[len(asked) - 1]

    monkeypatch.setattr(own_writers, "graded", write)
    return asked


def test_the_judge_sees_both_reports_and_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = told(monkeypatch, verdict(), "The report is perfect.", None)
    judge = Green(WRITER)
    reports = [Part("text", text) for text in ("Lungs [clear]", "x", "y")]
    more = [{"reference": "Heart LARGE"}] * 3
    found = score_readable(judge, [tiny_lm.plain("report")] * 3, reports, told=more)
    counts: dict[str, Any] = {"matched": 4.0, "significant": 3.0, "insignificant": 4.0}
    assert found == [{"score": pytest.approx(4 / 7), **counts}, None, None]
    assert "Reference: heart large\nCandidate: lungs clear\n" in asked[0]
    assert judge.unchecked and judge.wants == {"reference"}
    with pytest.raises(UserError, match="green: must be told the reference, and is not here"):
        judge.score(tiny_lm.plain("report"), reports[0])
    with pytest.raises(ValueError, match=r"template: needs the place \{reference\}"):
        Green(WRITER, template="{response}")
