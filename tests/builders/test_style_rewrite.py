"""Answers in another style: what stands, what is put back or left out, and what is counted."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders.clip_tools import ROOT, ByRule, Teller, Turns, said, tools
from training.faults import ALONE

from mmalign.builders import _config, _run, style_rewrite
from mmalign.builders._candidates import Asked
from mmalign.builders._left_out import NOTHING
from mmalign.builders._run import build
from mmalign.builders._store import AS_BEFORE, Store
from mmalign.builders._whole_rows import Remade
from mmalign.builders.style_rewrite import StyleRewrite
from mmalign.shapes.sight_text import named_things
from mmalign.types import Message, Part, derive_seed


def row(answer: str, question: str = "What is it?") -> Asked:
    return Asked("a", (Message("user", (Part("text", question),)),), (Part("text", answer),))


def writing(rewrite: str | None, verdict: str | None = "Yes.") -> ByRule:
    """A writer that gives this rewrite and this verdict."""

    def rule(turns: Turns, seed: int) -> str | None:
        text = said(turns)
        assert "to the question What is it?\n" in text
        if "Second text" in text:
            assert text.endswith("First text:\na cup\n\nSecond text:\nIt is a cup.")
            return verdict
        assert text.endswith("Text:\na cup")
        return rewrite

    return ByRule(rule)


GOOD = "Rewritten:\nIt is a cup.\n"


def made(builder: StyleRewrite, helper: ByRule, answer: str = "a cup", judge: Any = None) -> Remade:
    rows = [row(answer)]
    (found,) = builder.make(rows, tools(rows, Teller(lambda t, s: ""), helper, judge), 0)
    return found


def test_a_rewrite_that_says_the_same_stands() -> None:
    helper = writing(GOOD)
    found = made(StyleRewrite(), helper)
    (new,) = found.rows
    assert new.answers == {"chosen": Part("text", "It is a cup.")} and not found.counts
    seeds = {"rewrite": derive_seed(0, 0, "a", "style_rewrite")}
    assert new.told == {"rewritten": True, "answer": "a cup", "seeds": seeds}
    assert new.prompt == row("").turns
    assert len(helper.asked) == 2
    trusting = writing(GOOD)
    assert made(StyleRewrite(verify="none"), trusting) == found and len(trusting.asked) == 1


@pytest.mark.parametrize(
    ("rewrite", "verdict", "reason"),
    [
        (GOOD, "No", style_rewrite.DRIFTED),
        (GOOD, "Yes, but the second adds a saucer", style_rewrite.UNREAD),
        (GOOD, None, style_rewrite.UNREAD),
        ("It is a cup.", "Yes", style_rewrite.UNWRITTEN),
        (None, "Yes", style_rewrite.UNWRITTEN),
        ("Rewritten:\nA cup.", "Yes", style_rewrite.SAME),
    ],
)
def test_an_answer_is_put_back_or_its_row_left_out(
    rewrite: str | None, verdict: str | None, reason: str
) -> None:
    found = made(StyleRewrite(), writing(rewrite, verdict))
    (new,) = found.rows
    assert new.answers == {"chosen": Part("text", "a cup")} and found.counts == {AS_BEFORE + reason: 1}
    assert new.told["reason"] == reason and new.told["rewritten"] is False
    assert made(StyleRewrite(on_drift="drop"), writing(rewrite, verdict)) == Remade((), Counter({reason: 1}))


@dataclass(frozen=True)
class Short:
    """A judge that likes short answers, or that cannot be read."""

    readable: bool = True

    def score(self, prompt: Turns, response: Part) -> Mapping[str, float]:
        return {"score": -float(len(response.data.split()))}

    def verdicts(self, prompts: Any, responses: Any) -> list[Mapping[str, float] | None]:
        return [self.score(p, r) if self.readable else None for p, r in zip(prompts, responses, strict=True)]


def test_a_judge_may_find_the_rewrite_worse() -> None:
    assert made(StyleRewrite(), writing(GOOD), judge=Short()).counts == {AS_BEFORE + style_rewrite.WORSE: 1}
    assert not made(StyleRewrite(max_loss=2.0), writing(GOOD), judge=Short()).counts
    unread = made(StyleRewrite(), writing(GOOD), judge=Short(False)).counts
    assert unread == {AS_BEFORE + style_rewrite.UNREAD: 1}


def test_what_is_put_back_is_not_counted_as_left_out(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin("", {"prompts": {"count": 2}})
    store.add(0, [{"id": "a"}], made(StyleRewrite(), writing(None)).counts, None)
    store.add(1, [], made(StyleRewrite(on_drift="drop"), writing(None)).counts, None)
    done = store.finish(2, {"prompts": {"count": 2}})
    assert done["as_before"] == {style_rewrite.UNWRITTEN: 1}
    assert done["left_out"] == {style_rewrite.UNWRITTEN: 1, NOTHING: 1}
    lines = _run._summary(done, StyleRewrite.writes)
    assert lines[0] == "1 rows from 1 of 2 prompts"
    assert lines[1:] == [
        *(f"left out ({NOTHING}): 1", f"left out ({style_rewrite.UNWRITTEN}): 1"),
        *("left out in all: prompts 1, rewrites 1", f"kept as they were ({style_rewrite.UNWRITTEN}): 1"),
    ]


def test_rows_without_words_are_counted() -> None:
    assert made(StyleRewrite(), writing(GOOD), answer=" ") == Remade((), Counter({style_rewrite.UNFIT: 1}))


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"template": "Say it again."}, "template: needs the place {answer}"),
        ({"template": "{answer} {rewrite}"}, "template: knows no place {rewrite}"),
        ({"verify_template": "{answer}?"}, "verify_template: needs the place {rewrite}"),
        ({"max_loss": -1.0}, "max_loss: must be 0 or more, got -1"),
    ],
)
def test_settings_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        StyleRewrite(**fields)


def test_captions_of_the_built_in_world_in_sentences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    short = ["num_prompts=12", "log.progress=false", f"output={tmp_path}/out"]
    output = build(_config.load("configs/build/style_rewrite.yaml", short), ALONE)
    rows = [json.loads(line) for line in (output / "pairs.jsonl").read_text().splitlines()]
    record = json.loads((output / "build.json").read_text())
    counts, told = record.get("as_before", {}), capsys.readouterr().err
    assert record["left_out"] == {} and "left out" not in told and "12 rows from 12 of 12 prompts" in told
    assert told.count("kept as they were (rewrites") == len(counts)
    again = [one for one in rows if one["built"]["rewritten"]]
    assert len(rows) == 12 and len(again) + counts.get(style_rewrite.UNWRITTEN, 0) == 12
    assert again and all(one["completion"].endswith(".") for one in again)
    assert all(named_things(one["completion"]) == named_things(one["built"]["answer"]) for one in again)
