"""VideoSAVi: questions, critiques, refined and rated answers, read strictly; what is left out and counted."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from builders.clip_tools import (
    ByRule,
    Teller,
    Turns,
    counting,
    numbers,
    row,
    said,
    scenes,
    shipped,
    tools,
)
from training.faults import ALONE

from mmalign.builders import videosavi
from mmalign.builders._candidates import EMPTY, EQUAL, Asked
from mmalign.builders._run import build
from mmalign.builders._whole_rows import NewRow, Remade
from mmalign.builders.videosavi import Videosavi, read_critique
from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.shapes.critic import critic
from mmalign.shapes.judges import MotionJudge
from mmalign.shapes.sight_pairs import clip_of
from mmalign.types import Frames, Message, Part, UserError

CLIP = counting(4)


def made(builder: Videosavi, answer: Any, helper: Any = None, *rows: Asked) -> list[Remade]:
    """What becomes of rows, or of one about a clip of four frames."""
    rows = rows or (row("a", CLIP),)
    return builder.make(
        rows, tools(rows, Teller(answer), helper=None if helper is None else ByRule(helper)), 0
    )


def sides(new: NewRow) -> tuple[Any, Any]:
    found = [new.answers[role] for role in ("chosen", "rejected")]
    assert all(isinstance(one, Part) for one in found)
    return tuple(one.data for one in found if isinstance(one, Part))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("text", "mistakes"),
    [
        (
            "Temporal: it falls later\n- spatial : left of it",
            ["Temporal: it falls later", "Spatial: left of it"],
        ),
        ("Nothing is wrong.", []),
        ("nothing is wrong", []),
        ("Nothing is wrong.\nTemporal: but it falls", None),
        ("The answer is wrong.", None),
        ("Temporal:", None),
        ("", None),
        (None, None),
    ],
)
def test_critiques_are_read_strictly(text: str | None, mistakes: list[str] | None) -> None:
    assert read_critique(text) == mistakes


def correcting(critique: str | None, again: str | None) -> Any:
    def rule(turns: Turns, seed: int) -> str | None:
        assert numbers(turns) == [0, 1, 2, 3]
        text = said(turns)
        assert "Question: What comes last?\nAnswer: two\n" in text
        if "List what is wrong" in text:
            return critique
        assert "found in it:\nTemporal: three comes last\nWrite" in text
        return again

    return rule


def test_a_refined_answer_is_chosen_over_the_first() -> None:
    helper = correcting("temporal: three comes last", " three ")
    seeds: list[int] = []  # of the answer, the critique and the corrected answer

    def noted(said: Any) -> Any:
        def rule(turns: Turns, seed: int) -> Any:
            seeds.append(seed)
            return said(turns, seed)

        return rule

    (found,) = made(Videosavi(), noted(lambda t, s: "two"), noted(helper))
    (new,) = found.rows
    assert sides(new) == ("three", "two") and new.name == "own" and not found.counts
    assert new.told["seeds"] == {"chosen": seeds[2], "rejected": seeds[0]} and len(set(seeds)) == 3
    assert new.prompt == row("a", CLIP).turns
    assert new.told["question"] == "own" and new.told["mistakes"] == ["Temporal: three comes last"]


@pytest.mark.parametrize(
    ("answer", "critique", "again", "reason"),
    [
        (" ", None, None, EMPTY),
        ("two", "Nothing is wrong.", None, videosavi.CONTENT),
        ("two", "It is wrong.", None, videosavi.UNREAD),
        ("two", None, None, videosavi.UNREAD),
        ("two", "Temporal: three comes last", None, videosavi.UNREFINED),
        ("two", "Temporal: three comes last", "Two.", videosavi.KEPT),
    ],
)
def test_what_gives_no_refined_pair(answer: str, critique: Any, again: Any, reason: str) -> None:
    assert made(Videosavi(), lambda t, s: answer, correcting(critique, again)) == [
        Remade((), Counter({reason: 1}))
    ]


def test_questions_are_written_by_the_model_itself_or_its_helper() -> None:
    def rule(turns: Turns, seed: int) -> str:
        text = said(turns)
        if text.startswith("Write 3 different questions about this video"):
            return "1. Who comes first?\n2. Who is left of whom?\nAnd so on"
        if "List what is wrong" in text:
            return "Spatial: it is not there"
        return "a star" if "These mistakes" in text else text

    teller = Teller(rule)
    asked = [row("a", CLIP), row("b", counting(4, first=9))]
    own = tools(asked, teller, helper=ByRule(rule))
    found = Videosavi(questions=3).make(asked, own, 0)
    for one, remade in zip(asked, found, strict=True):
        assert [(new.name, said(new.prompt)) for new in remade.rows] == [
            ("1", "Who comes first?"), ("2", "Who is left of whom?"),
        ]  # fmt: skip
        assert all(numbers(new.prompt) == numbers(one.turns) for new in remade.rows)
        assert remade.counts == {videosavi.STRANGE: 1}
    assert len({seed for _, seed in teller.asked}) == 4
    assert found == [Videosavi(questions=3).make([one], own, 0)[0] for one in asked]


def test_rows_without_questions_or_clips_are_counted() -> None:
    blank = Asked("t", (Message("user", (Part("text", "What?"),)),))
    none, mute = made(Videosavi(questions=2), lambda t, s: "x", lambda t, s: None, blank, row("a", CLIP))
    assert none == Remade((), Counter({videosavi.MEDIA: 1}))
    assert mute == Remade((), Counter({videosavi.UNASKED: 1}))


def rating(turns: Turns, seed: int) -> str | None:
    """By the answer's number; some ratings cannot be read."""
    text = said(turns)
    if text.startswith("Describe"):
        return "a summary"
    number = text.split("Answer: ")[1].splitlines()[0]
    return {"7": "eight of ten", "3": None}.get(number, f"Well.\nFinal Score: {number}")


def test_the_best_rated_answer_meets_the_worst() -> None:
    def counted(turns: Turns, seed: int) -> str:
        return str(3 + (seed - start) % 4)  # 3 to 6 in turn

    start = derived()
    builder = Videosavi(compare="rate", answers=5)
    (found,) = made(builder, counted, rating)
    (new,) = found.rows
    assert sides(new) == ("6", "4") and new.told["ratings"] == [None, 4, 5, 6]
    assert found.counts == {EQUAL: 1, videosavi.UNRATED: 1}, "five samples of four answers, one unread"
    assert made(Videosavi(compare="rate", answers=5, min_gap=3), counted, rating)[0].counts == {
        EQUAL: 1, videosavi.UNRATED: 1, videosavi.EVEN: 1,
    }  # fmt: skip
    (at,) = made(Videosavi(compare="rate", answers=5, min_gap=2), counted, rating)
    assert [sides(new) for new in at.rows] == [("6", "4")], "the least gap itself is enough"
    (alike,) = made(builder, lambda t, s: "5", rating)
    assert alike == Remade((), Counter({EQUAL: 4, videosavi.FEW: 1}))


def derived() -> int:
    """The seed of the first answer to the row's own question."""
    seen: list[int] = []
    made(Videosavi(compare="rate", answers=2), lambda t, s: seen.append(s) or "x", rating)
    assert seen[1] == seen[0] + 1
    return seen[0]


def test_ratings_may_follow_a_summary() -> None:
    helper = ByRule(rating)
    asked = [row("a", CLIP)]
    builder = Videosavi(compare="rate", answers=2, summary=True)
    builder.make(asked, tools(asked, Teller(lambda t, s: str(s % 2 + 4)), helper), 0)
    assert len(helper.asked) == 3 and said(helper.asked[0]).startswith("Describe")
    assert all("The video shows: a summary\nQuestion:" in said(turns) for turns in helper.asked[1:])


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"questions": -1}, "questions: must be 0 or more, got -1"),
        ({"answers": 3}, "answers: is only read with compare rate, got 3"),
        ({"compare": "rate", "answers": 1}, "answers: must be 2 or more, got 1"),
        ({"compare": "rate", "min_gap": 0}, "min_gap: must be 1 or more, got 0"),
        ({"summary": True}, "summary: is only read with compare rate"),
    ],
)
def test_settings_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Videosavi(**fields)


def test_models_that_see_no_clips_are_refused() -> None:
    blind: Any = Teller(rating, frames=None, media=frozenset({"image"}))
    with pytest.raises(UserError, match="builder videosavi asks about clips"):
        Videosavi().ready_for(blind)


def test_the_built_in_model_is_corrected_by_the_critic_of_its_world(tmp_path: Path) -> None:
    rows = scenes(tmp_path / "given", 8)
    output = build(shipped("videosavi", rows, tmp_path / "out"), ALONE)
    record = json.loads((output / "build.json").read_text())
    assert record["helper"] == {"name": "python_function", "function": "mmalign.shapes.critic:critic"}
    assert record["kept"]["pairs"] + record["left_out"][videosavi.CONTENT] == 8
    samples = load(Jsonl(path=str(output / "pairs.jsonl"))).samples
    assert len(samples) >= 2
    judge = MotionJudge()
    for sample in samples:
        (chosen,), (rejected,) = decode(sample, Frames(count=4)).examples.values()
        scores = [judge.score(one.prompt, one.response[0])["score"] for one in (chosen, rejected)]
        assert scores == [1.0, 0.0]


def test_the_critic_answers_what_is_asked_of_it_alone() -> None:
    clip = Part("video", clip_of("training", 1000, 0))
    asked = "Question: Which way does the yellow star move?\nAnswer: down\n"

    def said_of(text: str) -> str | None:
        return critic((Message("user", (clip, Part("text", text))),), 0)

    found = said_of(asked)
    assert found is not None and read_critique(found) == [found] and found.startswith("Temporal: ")
    assert "'down'" in found and "'right'" in found
    assert said_of(asked.replace("down", "right")) == "Nothing is wrong."
    assert said_of(asked + "These mistakes were found in it:\n" + found) == "right"
    there = said_of("Question: Is there a yellow star?\nAnswer: no")
    assert there is not None and there.startswith("Spatial: ")
    assert said_of("Question: Why?\nAnswer: no") is None and said_of("Write 3 questions") is None
