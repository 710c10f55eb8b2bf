"""TPO: what each side sees, questions that are written, what is filtered out, and what is refused."""

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from builders.clip_tools import (
    ROOT,
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
from training.tiny_runs import losses

from mmalign import config as configs
from mmalign.builders import tpo
from mmalign.builders._candidates import Asked
from mmalign.builders._run import build
from mmalign.builders._whole_rows import Remade
from mmalign.builders.tpo import Tpo
from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.shapes.judges import MotionJudge
from mmalign.training.run import run
from mmalign.types import Frames, Message, Part, UserError

CLIP = counting(16)


def telling(turns: Turns, seed: int) -> str:
    """What is seen, in words that differ."""
    return "sees " + " ".join(map(str, numbers(turns)))


def made(builder: Tpo, teller: Teller, *rows: Asked, **more: Any) -> list[Remade]:
    return builder.make(rows, tools(rows, teller, **more), 0)


def only(builder: Tpo, rule: Any = telling, **more: Any) -> Remade:
    (found,) = made(builder, Teller(rule), row("a", CLIP), **more)
    return found


def test_localised_sees_a_part_and_the_rest() -> None:
    teller = Teller(telling)
    found = made(Tpo(views=("localised",), dense=16), teller, *(row(f"r{i}", CLIP) for i in range(5)))
    firsts = set()
    for remade, (chosen, rejected) in zip(
        found, zip(teller.asked[::2], teller.asked[1::2], strict=True), strict=True
    ):
        part, rest = numbers(chosen[0]), numbers(rejected[0])
        assert part == list(range(part[0], part[0] + 4)), "a quarter of 16 frames, in a row"
        assert len(rest) == 4 and not set(part) & set(rest), "as many as the model takes, from the others"
        assert chosen[1] == rejected[1], "one stream of random numbers"
        (new,) = remade.rows
        assert new.name == "localised" and new.answers["chosen"].data == telling(chosen[0], 0)
        assert new.answers["rejected"].data == telling(rejected[0], 0)
        assert numbers(new.prompt) == list(range(16)) and said(new.prompt) == "What comes last?"
        span = [part[0] / 2, part[0] / 2 + 2.0]
        assert new.told == {
            "view": "localised",
            "chosen_view": {"segment": span, "num_frames": 4},
            "rejected_view": {"drop": span, "num_frames": 4},
            "of_frames": 16,
            "seeds": {"chosen": chosen[1], "rejected": chosen[1]},
        }
        firsts.add(part[0])
    assert len(firsts) > 2, "drawn for each row"


def test_comprehensive_sees_more_frames_than_the_model_is_trained_on() -> None:
    teller = Teller(telling)
    (found,) = made(Tpo(views=("comprehensive",), dense=8, sparse=2), teller, row("a", CLIP))
    assert [numbers(turns) for turns, _ in teller.asked] == [[0, 2, 4, 6, 8, 10, 12, 15], [0, 15]]
    assert found.rows[0].told["rejected_view"] == {"num_frames": 2}
    assert not found.counts


def test_rows_do_not_depend_on_each_other() -> None:
    rows = [row(f"r{i}", counting(12, first=i)) for i in range(4)]
    builder = Tpo(dense=8)
    together = made(builder, Teller(telling), *rows)
    assert together == [made(builder, Teller(telling), one)[0] for one in rows]
    assert all(len(one.rows) == 2 for one in together)


def test_what_shows_no_one_clip_or_too_short_a_one_is_counted() -> None:
    text = Asked("t", (Message("user", (Part("text", "What?"),)),))
    brief = row("b", counting(2))
    none, short = made(Tpo(dense=8, sparse=2), Teller(telling), text, brief)
    assert none.counts == {tpo.MEDIA: 1} and not none.rows
    assert short.counts == {tpo.BRIEF: 1} and [one.name for one in short.rows] == ["localised"]


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [("left", "", tpo.EMPTY), ("It goes left.", "it goes left", tpo.SAME), ("a" * 20, "a" * 19, tpo.ALIKE)],
)
def test_words_that_make_no_pair(chosen: str, rejected: str, reason: str) -> None:
    found = only(
        Tpo(views=("comprehensive",), dense=8), lambda t, s: chosen if len(numbers(t)) == 8 else rejected
    )
    assert found == Remade((), Counter({reason: 1}))


def writing(question: str | None, verdicts: Mapping[bool, str | None]) -> ByRule:
    """A helper that asks this, and says of two answers one or the other by whether chosen comes first."""

    def rule(turns: Turns, seed: int) -> str | None:
        text = said(turns)
        assert not numbers(turns), "it is told what is seen and need not look"
        assert "sees 0 2 4 6 8 10 12 15" in text.splitlines()[1]
        if "Answer A" not in text:
            return question
        return verdicts[text.index("sees 0 2 4 6 8 10 12 15", 90) < text.index("sees 0 15")]

    return ByRule(rule)


WRITTEN = Tpo(views=("comprehensive",), questions="written", filter="helper", dense=8)


def test_questions_are_written_from_what_chosen_sees() -> None:
    helper = writing("Who comes last?", {True: "A", False: "B."})
    found = only(WRITTEN, helper=helper)
    (new,) = found.rows
    assert said(new.prompt) == "Who comes last?" and numbers(new.prompt) == list(range(16))
    assert new.told["caption"] == "sees 0 2 4 6 8 10 12 15"
    assert len(helper.asked) == 3, "one question, and one check in either order"


@pytest.mark.parametrize(
    ("verdicts", "reason"),
    [
        (("both", "both"), tpo.RIGHT),
        (("B", "A"), tpo.WRONG),
        (("neither", "neither"), tpo.WRONG),
        (("A", "A"), tpo.UNREAD),
        (("A", None), tpo.UNREAD),
        (("A, I think", "B"), tpo.UNREAD),
    ],
)
def test_the_helper_says_which_side_is_right(verdicts: tuple[str | None, str | None], reason: str) -> None:
    helper = writing("Who comes last?", dict(zip((True, False), verdicts, strict=True)))
    assert only(WRITTEN, helper=helper) == Remade((), Counter({reason: 1}))


def test_a_question_that_is_none_is_counted() -> None:
    found = only(WRITTEN, helper=writing("I cannot ask.", {}))
    assert found == Remade((), Counter({tpo.UNASKED: 1}))


@dataclass(frozen=True)
class Long:
    """A judge that likes answers with many numbers, or that gives no verdicts on them."""

    readable: bool = True

    def score(self, prompt: Turns, response: Part) -> Mapping[str, float]:
        assert numbers(prompt) == list(range(16))
        return {"score": len(response.data.split())}

    def verdicts(self, prompts: Any, responses: Any) -> list[Mapping[str, float] | None]:
        return [self.score(p, r) if self.readable else None for p, r in zip(prompts, responses, strict=True)]


def test_a_judge_must_prefer_the_chosen_side() -> None:
    builder = Tpo(views=("comprehensive",), dense=8, sparse=2, min_gap=5.0)
    assert len(only(builder, judge=Long()).rows) == 1
    assert only(Tpo(views=("comprehensive",), dense=8, min_gap=6.0), judge=Long()).counts == {
        tpo.NOT_HIGHER: 1
    }
    assert only(builder, judge=Long(False)).counts == {tpo.UNREAD: 1}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"views": ()}, "views: must name each once"),
        ({"segment": 1.0}, "segment: must lie between 0 and 1, got 1"),
        ({"sparse": 64}, "sparse: must be from 1 to less than dense, got 64 and 64"),
        ({"min_edit_distance_norm": 1.5}, "min_edit_distance_norm: must lie in"),
        ({"min_gap": -1.0}, "min_gap: must be 0 or more, got -1"),
    ],
)
def test_settings_are_refused(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Tpo(**fields)


def test_models_are_refused() -> None:
    blind: Any = Teller(telling, frames=None, media=frozenset({"image"}))
    with pytest.raises(UserError, match="builder tpo asks about clips"):
        Tpo().ready_for(blind)
    seeing: Any = Teller(telling)
    with pytest.raises(UserError, match="builder.dense: must be model.frames.count 4 or more, got 3"):
        Tpo(dense=3).ready_for(seeing)


def test_the_built_in_model_says_more_of_four_frames_than_of_one(tmp_path: Path) -> None:
    rows = scenes(tmp_path / "given", 16)
    output = build(shipped("tpo", rows, tmp_path / "out"), ALONE)
    record = json.loads((output / "build.json").read_text())
    assert record["kept"]["pairs"] + record["left_out"][tpo.SAME] == 16
    judge, better = MotionJudge(), 0
    samples = load(Jsonl(path=str(output / "pairs.jsonl"))).samples
    assert len(samples) >= 3 and len(list((output / "media").iterdir())) == len(samples)
    for sample in samples:
        (chosen,), (rejected,) = decode(sample, Frames(count=4)).examples.values()
        assert chosen.prompt == rejected.prompt
        scores = [judge.score(one.prompt, one.response[0])["score"] for one in (chosen, rejected)]
        better += scores == [1.0, 0.0]
    assert better > len(samples) / 2
    overrides = [f"data={{source: jsonl, path: {output}/pairs.jsonl}}", "heldout=null", "evaluation=null"]
    overrides += [f"model.path={ROOT}/mmalign/shapes/models/video", "train.steps=1", "train.batch=2"]
    overrides += ["train.schedule_steps=1", "train.warmup_steps=0", "log={every: 1, progress: false}"]
    trained = run(
        configs.load(ROOT / "configs/quickstart/video.yaml", [*overrides, f"output={tmp_path}/run"])
    )
    assert losses(trained)[0] > math.log(2), "ln 2 and the anchor on the chosen side"
