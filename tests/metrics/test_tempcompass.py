"""TempCompass: choices, yes or no, captions to be matched, and captions that a judge grades."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mmalign.metrics._resampling import figures
from mmalign.metrics.tempcompass import Tempcompass
from mmalign.types import Message, Part, UserError

CHOICE = {"question": "What is it doing?\nA. running\nB. jumping", "answer": "B. jumping"}
YES = {"question": "Is it jumping?", "answer": "yes"}
MATCH = {
    "question": "Which is right?\nCaption A: it runs\nCaption B: it jumps",
    "answer": "Caption B: it jumps",
}


WRITTEN = {
    "question": "Describe what it does.",
    "mc_question": "It is?\nA. running\nB. jumping",
    "mc_answer": "B",
}


@dataclass(frozen=True)
class Number:
    """The number that a text is."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> dict[str, float]:
        return {"score": float(response.data)}


@dataclass(frozen=True)
class Jumps:
    """1 if a text says "jumps"; empty ones are no verdict."""

    asked: ClassVar[list[str]] = []

    def score(self, prompt: tuple[Message, ...], response: Part) -> dict[str, float]:
        raise AssertionError("captions are graded together")

    def verdicts(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[dict[str, float] | None]:
        self.asked.extend(part.data for turns in prompts for turn in turns for part in turn.parts)
        return [{"score": float("jumps" in one.data)} if one.data else None for one in responses]


def bench(folder: Path, **forms: dict[str, Any]) -> Tempcompass:
    files = {}
    for form, row in forms.items():
        path = folder / f"{form}.json"
        path.write_text(json.dumps({"17": {"action": [row], "speed": [row]}}))
        files[form.replace("multi_choice", "multi-choice")] = str(path)
    judge = {"name": f"{__name__}:Jumps"} if "captioning" in forms else None
    return Tempcompass(files, "clips", judge=judge)


def test_every_form(tmp_path: Path) -> None:
    metric = bench(tmp_path, multi_choice=CHOICE, yes_no=YES, caption_matching=MATCH)
    ids = [one.id for one in metric.ask()]
    assert ids[:2] == ["multi-choice/17/action/1", "multi-choice/17/speed/1"] and len(ids) == 6
    said = ["B", "A. running", "Yes, it is.", "No", "Caption B", "it jumps."]
    items = metric.grade(dict(zip(ids, said, strict=True)))
    found = figures(metric, items)
    assert found["acc"].value == pytest.approx(4 / 6) and found["unanswered"].value == 0
    assert found["macro"].value == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert items[0].groups == {"form": ("multi-choice",), "aspect": ("action",)} and items[0].cluster == "17"
    unread = metric.grade(dict(zip(ids, ["?", "?", "perhaps", "", "Caption C", "both"], strict=True)))
    assert figures(metric, unread)["unanswered"].value == 1


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ("B", "Caption B"), ("(A)", "Caption A"), ("b.", "Caption B"), ("**Caption A**", "Caption A"),
        ("The answer is Caption A", "Caption A"), ("caption b: it jumps", "Caption B"),
        ("it runs", "Caption A"), ("Caption B is right. Caption A is not.", "Caption B"),
        ("I think it is caption B.", "Caption B"), ("Caption A and not Caption B", "Caption A"),
        ("The best match is Caption B.", "Caption B"), ("The correct caption is Caption A", "Caption A"),
        ("It runs.\n\nCaption A", "Caption A"), ("It jumps.\nB", "Caption B"),
        ("The best match is not Caption B.", None), ("Caption A\n\nThe best match is Caption B", None),
        ("Caption A and Caption B", None), ("Caption A: it runs\nCaption B: it jumps", None),
        ("Caption A is wrong", None), ("Caption C", None), ("C", None), ("", None),
    ],
)  # fmt: skip
def test_a_caption_by_its_name(answer: str, named: str | None, tmp_path: Path) -> None:
    metric = bench(tmp_path, caption_matching=MATCH)
    assert metric.said(metric.items["caption_matching/17/action/1"], answer) == named


def test_captions_in_another_order_and_by_number(tmp_path: Path) -> None:
    row = {"question": "?\nCaption B: it runs\nCaption A: it jumps", "answer": "Caption A: it jumps"}
    metric = bench(tmp_path, caption_matching=row)
    item = metric.items["caption_matching/17/action/1"]
    for answer in ("it runs", "b.", "The answer is (B)", "Caption B: it runs", "B. it runs"):
        assert metric.said(item, answer) == "Caption B"
    row = {"question": "?\nOption 1: it runs\nOption 2: it jumps", "answer": "Option 2: it jumps"}
    metric = bench(tmp_path, caption_matching=row)
    item = metric.items["caption_matching/17/action/1"]
    for answer in (
        "2",
        "(2)",
        "Option 2",
        "The answer is Option 2.",
        "it jumps",
        "**2**",
        "The answer is 2",
        "The best match is 2.",
        "It flies.\n2",
        "Answer: (2)",
    ):
        assert metric.said(item, answer) == "Option 2"
    assert metric.said(item, "Option 1 or Option 2") is None and metric.said(item, "12") is None
    for answer in (
        "The answer is 2 foxes",
        "The answer is 20",
        "The answer is 1 or 2",
        "1\n2",
        "The answer is 1\n2",
    ):
        assert metric.said(item, answer) is None


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("Yes.", "yes"), ("no", "no"), ("No man is seen", "no"), ("**Yes**", "yes"),
        ("The answer is yes", "yes"), ("There is no doubt: yes", None), ("The man is not walking", None),
        ("Not sure", None), ("nobody", None),
    ],
)  # fmt: skip
def test_yes_or_no(answer: str, said: str | None, tmp_path: Path) -> None:
    metric = bench(tmp_path, yes_no=YES)
    assert metric.said(metric.items["yes_no/17/action/1"], answer) == said


def test_captions_are_graded_by_a_judge(tmp_path: Path) -> None:
    metric = bench(tmp_path, captioning=WRITTEN, yes_no=YES)
    ids = [one.id for one in metric.ask()]
    assert ids[0] == "captioning/17/action/1" and metric.is_unchecked and len(metric.notes) == 1
    assert metric.ask()[0].turns[0].parts[1].data == WRITTEN["question"]
    found = metric.grade(dict(zip(ids, ["A fox jumps.", "A fox.", "yes", "no"], strict=True)))
    values = figures(metric, found)
    assert values["acc"].value == 0.5 and values["macro"].value == 0.5 and values["unanswered"].value == 0
    assert {one.id: one.shown["said"] for one in found} == dict(
        zip(ids, [1.0, 0.0, "yes", "no"], strict=True)
    )
    told = Jumps.asked[0]
    assert WRITTEN["mc_question"] in told and told.endswith("Answer: B")
    half = figures(metric, metric.grade(dict(zip(ids, ["A fox jumps.", "", "yes", "yes"], strict=True))))
    assert half["acc"].value == 0.75 and half["unanswered"].value == 0.25
    assert not bench(tmp_path, yes_no=YES).is_unchecked


def test_a_caption_of_one_half_is_right(tmp_path: Path) -> None:
    files = bench(tmp_path, captioning=WRITTEN).questions
    metric = Tempcompass(files, "clips", judge={"name": f"{__name__}:Number"})
    ids = [one.id for one in metric.ask()]
    found = metric.grade(dict(zip(ids, ["0.5", "0.499"], strict=True)))
    assert [one.counts["right"] for one in found] == [1, 0]


def test_refusals(tmp_path: Path) -> None:
    for form, row, words in (
        ("multi_choice", CHOICE | {"answer": "C. flying"}, "letter of one of the 2"),
        ("multi_choice", CHOICE | {"question": "What?"}, "must list its options"),
        ("yes_no", YES | {"answer": "maybe"}, "must be yes or no"),
        ("caption_matching", MATCH | {"answer": "it jumps"}, "must begin with the name of one option"),
    ):
        with pytest.raises(UserError, match=f"17 action 1: .*{words}"):
            bench(tmp_path, **{form: row}).ask()
    with pytest.raises(ValueError, match="must name files by form"):
        Tempcompass({"captions": "x"}, "clips")
    for questions, judge in (({"captioning": "x"}, None), ({"yes_no": "x"}, {"name": "brightness"})):
        with pytest.raises(ValueError, match="^judge: grades captions; give it with questions.captioning"):
            Tempcompass(questions, "clips", judge=judge)
    with pytest.raises(UserError, match="17 action 1: .*mc_answer"):
        bench(tmp_path, captioning=WRITTEN | {"mc_answer": None}).ask()
