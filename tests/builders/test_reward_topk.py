"""Curation by a judge: which rows stay of a group, ties, bounds, what is counted, and a build of it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from builders.clip_tools import ROOT, Teller, counting, said, tools
from training.faults import ALONE

from mmalign.builders import _config, reward_topk
from mmalign.builders._candidates import Asked
from mmalign.builders._rows import COLUMN
from mmalign.builders._run import build
from mmalign.builders.reward_topk import RewardTopk
from mmalign.types import Message, Part


@dataclass(frozen=True)
class Read:
    """A judge that reads its score off the response."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        return {"score": float(response.data.split()[-1].rstrip("?")), "shown": float(len(prompt[0].parts))}

    def verdicts(self, prompts: Any, responses: Any) -> list[Mapping[str, float] | None]:
        return [
            None if "none" in one.data else self.score(*two)
            for one, *two in zip(responses, prompts, responses, strict=True)
        ]


A, B = counting(2), counting(3)


def asked(name: str, clip: Any, question: str, answer: str) -> Asked:
    media = () if clip is None else (Part("video", clip),)
    turns = (Message("user", (*media, Part("text", question))),)
    return Asked(name, turns, (Part("text", answer),))


def kept(builder: RewardTopk, *rows: Asked, judge: Any = None) -> tuple[list[str], dict[str, int]]:
    """Ids of the rows that stay, and counts of the others."""
    found = builder.make(rows, tools(rows, Teller(lambda t, s: ""), judge=judge or Read()), 0)
    made = [(row.id, new) for row, one in zip(rows, found, strict=True) for new in one.rows]
    written: list[dict[str, Any]] = [{"id": name, COLUMN: dict(new.told)} for name, new in made]
    out = builder.sift(written)
    counts: dict[str, int] = {}
    for reason in [*out.values(), *(reason for one in found for reason in one.counts)]:
        counts[reason] = counts.get(reason, 0) + 1
    return [one["id"] for one in written if one["id"] not in out], counts


ROWS = (
    asked("a1", A, "Why?", "says 1"),
    asked("a2", A, "Why?", "says 5"),
    asked("a3", A, "Who?", "says 3"),
    asked("b1", B, "Why?", "says 2"),
    asked("b2", B, "Why?", "tells 2"),
)


def test_the_best_answers_of_every_question_stay() -> None:
    assert kept(RewardTopk(top=1), *ROWS) == (["a2", "a3", "b1"], {reward_topk.BEHIND: 2})


def test_groups_may_be_media_or_all() -> None:
    assert kept(RewardTopk(per="media", top=1), *ROWS)[0] == ["a2", "b1"]
    assert kept(RewardTopk(per="all", top=2), *ROWS)[0] == ["a2", "a3"]
    assert kept(RewardTopk(per="all", share=0.5), *ROWS)[0] == ["a2", "a3", "b1"]
    assert kept(RewardTopk(per="all", share=0.2), *ROWS)[0] == ["a2"], "a fifth of five is one"


def test_a_bound_alone_or_beside_a_number() -> None:
    names, counts = kept(RewardTopk(per="all", least=2.0), *ROWS)
    assert names == ["a2", "a3", "b1", "b2"] and counts == {reward_topk.LOW: 1}
    names, counts = kept(RewardTopk(per="media", top=2, least=3.0), *ROWS)
    assert names == ["a2", "a3"] and counts == {reward_topk.LOW: 3}
    names, counts = kept(RewardTopk(per="all", share=0.4, least=3.0), *ROWS)
    assert names == ["a2", "a3"] and counts == {reward_topk.LOW: 3}, "two fifths of all five"


def test_questions_are_scored_once_for_all_their_answers() -> None:
    rows = [
        asked("1", A, "Is it 7?", "x"), asked("2", A, "Is it 7?", "y"),
        asked("3", A, "Is it 8?", "x"), asked("4", A, "Is it 2?", "x"), asked("5", B, "Is it 1?", "x"),
    ]  # fmt: skip
    builder = RewardTopk(scores="question", per="media", top=2)
    assert kept(builder, *rows) == (["1", "2", "3", "5"], {reward_topk.BEHIND: 1})
    (first, *_) = builder.make(rows, tools(rows, Teller(lambda t, s: ""), judge=Read()), 0)
    (new,) = first.rows
    assert new.told["scores"] == {"score": 7.0, "shown": 1.0}, "the media alone were shown"
    assert said(new.prompt) == "Is it 7?" and new.answers["chosen"] == Part("text", "x")


@dataclass(frozen=True)
class Looks:
    """A judge that scores a question by how many frames the clip has that it is about."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        return {"score": 9.0 if len(prompt[0].parts[0].data.frames) == 2 else 1.0}


def test_the_same_words_about_other_media_are_another_question() -> None:
    rows = [asked("two", A, "Describe it.", "x"), asked("three", B, "Describe it.", "y")]
    builder = RewardTopk(scores="question", per="all", top=1)
    for given in (rows, rows[::-1]):
        assert kept(builder, *given, judge=Looks()) == (["two"], {reward_topk.BEHIND: 1})


def test_what_cannot_be_scored_is_counted() -> None:
    blank, dumb = replace(ROWS[0], original=()), asked("d", A, "", "says 3")
    unread = asked("u", A, "Why?", "none 4")
    names, counts = kept(RewardTopk(top=1), blank, dumb, unread, ROWS[1])
    assert names == ["a2"] and counts == {reward_topk.UNFIT: 2, reward_topk.UNREAD: 1}
    blind = RewardTopk(scores="question", per="all", top=1)
    assert kept(blind, asked("t", None, "Is it 3?", "x")) == ([], {reward_topk.UNFIT: 1})


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({}, "top: give exactly one of top and share"),
        ({"top": 1, "share": 0.5}, "top: give exactly one of top and share"),
        ({"top": 0}, "top: must be 1 or more, got 0"),
        ({"share": 1.0}, "share: must lie between 0 and 1, got 1"),
        ({"scores": "question", "top": 1}, "per: all rows of one prompt have one question"),
    ],
)
def test_settings_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        RewardTopk(**fields)


def test_the_warmest_quarter_of_the_stories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = _config.load(
        "configs/build/reward_topk.yaml", [f"output={tmp_path}/out", "log.progress=false", "num_prompts=22"]
    )
    output = build(config, ALONE)
    rows = [json.loads(line) for line in (output / "pairs.jsonl").read_text().splitlines()]
    record = json.loads((output / "build.json").read_text())
    behind = record["left_out"][reward_topk.BEHIND]
    assert len(rows) == 6 and behind == 16, "a quarter of 22, rounded up"
    assert all("completion" in row and "rejected" not in row for row in rows)
    assert min(row[COLUMN]["scores"]["score"] for row in rows) > 0
