"""POVID: what helpers reply is read strictly and looked up, and a build in the built-in world."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from training.faults import ALONE

import mmalign
from mmalign.builders import _config, _mistakes, povid
from mmalign.builders._candidates import Asked
from mmalign.builders._judged_sides import NO_BETTER, UNREAD, Sides, judged_sides
from mmalign.builders._mistakes import Mistake, Wrong, read_wrong
from mmalign.builders._run import build
from mmalign.builders._whole_rows import Pool, Remade, Tools
from mmalign.builders.povid import Povid
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.shapes.errors import errors
from mmalign.shapes.judges import CaptionJudge
from mmalign.shapes.sight_text import caption_of, named_things
from mmalign.shapes.sights import Sight, render_sight, sample_sight
from mmalign.types import Message, Part
from mmalign.writing import Writer

ROOT = Path(mmalign.__file__).parent.parent
KINDS = ("objects", "attributes")
RIGHT = "A red cup stands on a table."
GOOD = """Mistakes:
attributes: a red cup -> a blue cup
- Objects: nothing -> and a chair
Answer:
A blue cup stands on a table and a chair."""

# ---------------------------------------------------------------- replies


def test_a_reply_is_read_with_its_mistakes() -> None:
    found = read_wrong(f"\n{GOOD}\n", RIGHT, KINDS, 2)
    assert found == Wrong(
        "A blue cup stands on a table and a chair.",
        (Mistake("attributes", "a red cup", "a blue cup"), Mistake("objects", "", "and a chair")),
    )
    assert [one.line for one in found.mistakes] == [
        "attributes: a red cup -> a blue cup",
        "objects: nothing -> and a chair",
    ]


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Mistakes:\n", "", _mistakes.UNREAD),
        ("Mistakes:\n", "Sure! Mistakes:\n", _mistakes.UNREAD),
        ("\nAnswer:\n", "\n", _mistakes.UNREAD),
        ("Answer:\nA blue cup stands on a table and a chair.", "Answer:\n", _mistakes.UNREAD),
        ("attributes: a red cup -> a blue cup", "attributes: a red cup", _mistakes.UNREAD),
        ("attributes: a red cup -> a blue cup", "the cup is blue now", _mistakes.UNREAD),
        ("attributes:", "relations:", _mistakes.UNREAD),
        ("a red cup ->", "a green cup ->", _mistakes.FALSE),
        ("-> a blue cup", "-> a black cup", _mistakes.FALSE),
        ("-> a blue cup", "-> a red cup", _mistakes.FALSE),
        ("nothing -> and a chair", "nothing -> a table", _mistakes.FALSE),
    ],
)
def test_a_reply_of_another_form_or_with_a_false_list_is_none(old: str, new: str, reason: str) -> None:
    assert old in GOOD
    assert read_wrong(GOOD.replace(old, new), RIGHT, KINDS, 2) == reason


def test_silence_and_too_many_mistakes() -> None:
    assert read_wrong(None, RIGHT, KINDS, 2) == _mistakes.SILENT
    assert read_wrong(GOOD, RIGHT, KINDS, 1) == _mistakes.UNREAD


# ---------------------------------------------------------------- rows


@dataclass(frozen=True)
class Scripted(Writer):
    """Answers what it was given to say, by the right answer in the question."""

    replies: Mapping[str, str | None]
    asked: list[tuple[Message, ...]] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)

    def ready(self) -> None:
        """Nothing to load."""

    def write(self, questions: Sequence[tuple[Message, ...]], seeds: Sequence[int]) -> list[str | None]:
        """The reply for the text behind Answer:."""
        assert len(set(seeds)) == len(seeds)
        self.asked.extend(questions)
        self.seeds.extend(seeds)
        return [self.replies[turns[-1].parts[-1].data.rpartition("Answer:\n")[2]] for turns in questions]


class Lengths:
    """How many letters a an answer has; of one without any it says nothing that can be read."""

    def verdicts(self, prompts: Any, responses: Sequence[Part]) -> list[Mapping[str, float] | None]:
        counts = [part.data.count("a") for part in responses]
        return [{"score": float(count)} if count else None for count in counts]

    def score(self, prompt: Any, response: Part) -> Mapping[str, float]:
        raise AssertionError("verdicts are asked for")


def row(answer: str, name: str = "r") -> Asked:
    turns = (Message("user", (Part("image", Image.new("RGB", (4, 4))), Part("text", "What is there?"))),)
    return Asked(name, turns, (Part("text", answer),))


def made(writer: Writer, rows: Sequence[Asked], judge: Any = None, **fields: Any) -> list[Remade]:
    tools = Tools(Pool(rows), SimpleNamespace(), SimpleNamespace(), writer, judge)  # type: ignore[arg-type]
    return Povid(**fields).make(rows, tools, 0)


def test_rows_hold_both_answers_and_say_what_is_wrong() -> None:
    writer = Scripted({RIGHT: GOOD, "b": None, "c": "no"})
    picture = Asked("d", row("x").turns, (Part("image", None),))
    rows = [row(RIGHT, "a"), row("b", "b"), row("c", "c"), picture]
    found = made(writer, rows, kinds=KINDS)
    assert [one.counts for one in found[1:]] == [
        Counter({_mistakes.SILENT: 1}), Counter({_mistakes.UNREAD: 1}), Counter({povid.WORDLESS: 1}),
    ]  # fmt: skip
    (new,) = found[0].rows
    assert new.answers == {"chosen": Part("text", RIGHT), "rejected": found[0].rows[0].answers["rejected"]}
    assert new.prompt == rows[0].turns and new.columns == {} and len(new.told["mistakes"]) == 2
    assert new.told["seeds"] == {"rejected": writer.seeds[0]}
    (turn,) = writer.asked[0]
    text = turn.parts[-1].data
    assert [part.kind for part in turn.parts] == ["image", "text"] and "Question:\nWhat is there?\n" in text
    assert re.findall(r"^- (\w+):", text, re.MULTILINE) == list(KINDS) and "one to 3 things" in text


def test_who_writes_need_not_be_shown_the_picture() -> None:
    writer = Scripted({RIGHT: GOOD})
    made(writer, [row(RIGHT)], show=False, mistakes=1)
    assert [part.kind for part in writer.asked[0][0].parts] == ["text"]
    assert "with one thing of it wrong" in writer.asked[0][0].parts[0].data


def test_a_judge_must_find_the_right_answer_better() -> None:
    sides = [
        Sides(str(i), (), *two) for i, two in enumerate([("aaa", "a"), ("aa", "a"), ("a", "aa"), ("a", "b")])
    ]
    judge: Any = Lengths()
    scored = {"chosen_score": 3.0, "rejected_score": 1.0, "margin": 2.0}
    assert judged_sides(judge, sides, 1.0) == [scored, NO_BETTER, NO_BETTER, UNREAD]
    (kept,) = made(Scripted({RIGHT: GOOD}), [row(RIGHT)])
    assert len(kept.rows) == 1 and kept.rows[0].columns == {}, "without a judge"
    fewer = GOOD.replace("A blue cup stands on a table and a chair.", "A blue cup, and a chair.")
    (kept,) = made(Scripted({RIGHT: fewer}), [row(RIGHT)], judge, min_gap=0.0)
    assert kept.rows == () and kept.counts == {NO_BETTER: 1}, "both have three"
    (kept,) = made(Scripted({RIGHT + " a a": fewer}), [row(RIGHT + " a a")], judge)
    assert kept.rows[0].columns == {"chosen_score": 5.0, "rejected_score": 3.0, "margin": 2.0}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"kinds": ()}, "kinds: must name each once and at least one"),
        ({"kinds": ("objects", "objects")}, "kinds: must name each once"),
        ({"mistakes": 0}, "mistakes: must be 1 or more"),
        ({"min_gap": -1.0}, "min_gap: must be 0 or more"),
    ],
)
def test_settings_that_make_no_sense(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Povid(**fields)


# ---------------------------------------------------------------- the built-in world


def sight(number: int) -> Sight:
    return sample_sight("training", 5, number)


def question(number: int, answer: str, kinds: Sequence[str]) -> tuple[Message, ...]:
    shown = Part("image", render_sight(sight(number)))
    turns = (Message("user", (shown, Part("text", "Describe the picture."))),)
    asked = Asked("r", turns, (Part("text", answer),))
    return Povid(kinds=tuple(kinds), mistakes=1)._question(asked)  # type: ignore[arg-type]


def test_the_mistakes_of_the_built_in_world_are_mistakes() -> None:
    judge, seen = CaptionJudge(), Counter[str]()
    for number in range(24):
        there = sight(number).things
        right = caption_of(there)
        for kind in ("objects", "attributes", "relations"):
            turns = question(number, right, [kind])
            found = read_wrong(errors(turns, number), right, [kind], 1)
            if kind == "relations" and len(there) == 1:
                assert found == _mistakes.SILENT
                continue
            if found == _mistakes.SILENT:
                assert kind == "objects"
                continue
            assert isinstance(found, Wrong)
            seen[kind] += 1
            assert (named_things(found.text) == set(there)) == (kind == "relations") and found.text != right
            if kind != "relations":
                prompt = (Message("user", (turns[0].parts[0], Part("text", "Describe the picture."))),)
                scores = [judge.score(prompt, Part("text", text))["score"] for text in (right, found.text)]
                assert scores[0] > scores[1]
    assert min(seen.values()) > 8 and len(seen) == 3


def test_yes_becomes_no_and_other_texts_are_left() -> None:
    assert read_wrong(errors(question(0, "yes", ["reasoning"]), 0), "yes", ["reasoning"], 1) == Wrong(
        "no", (Mistake("reasoning", "yes", "no"),)
    )
    assert errors(question(0, "yes", ["objects"]), 0) is None
    assert errors(question(0, "two shapes", ["objects"]), 0) is None


def test_the_shipped_config_builds_pairs_that_the_judge_confirms(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    more = ["num_prompts=24", "log.progress=false", f"output={tmp_path}/out"]
    folder = build(_config.load(ROOT / "configs/build/povid.yaml", more), ALONE)
    record = json.loads((folder / "build.json").read_text())
    assert record["helper"]["function"] == "mmalign.shapes.errors:errors"
    assert record["kept"]["pairs"] + sum(record["left_out"].values()) == 24 and record["kept"]["pairs"] > 18
    samples = load(Jsonl(path=str(folder / "pairs.jsonl"))).samples
    assert all(sample.labels["margin"] > 0 for sample in samples)
    for sample in samples:
        sides = [sample.examples[role][0] for role in ("chosen", "rejected")]
        assert sides[0].labels["score"] - sides[1].labels["score"] == pytest.approx(sample.labels["margin"])
