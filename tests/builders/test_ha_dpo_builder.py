"""HA-DPO: both sides written again, checked and paired, and a build in the built-in world."""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training.faults import ALONE

import mmalign
from mmalign.builders import _config, ha_dpo
from mmalign.builders._candidates import Asked
from mmalign.builders._judged_sides import NO_BETTER
from mmalign.builders._run import build
from mmalign.builders._whole_rows import Pool, Remade, Tools
from mmalign.builders.ha_dpo import HaDpo
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.shapes.sight_text import mentioned_things
from mmalign.shapes.styles import styles
from mmalign.types import Message, Part
from mmalign.writing import Writer

ROOT = Path(mmalign.__file__).parent.parent


@dataclass(frozen=True)
class Scripted(Writer):
    """Writes a text again by `again(text, number of the time)`, and says of two texts what `same` says."""

    again: Callable[[str, int], str | None]
    same: Callable[[str, str], str | None] = lambda first, second: "Yes."
    asked: list[tuple[str, int]] = field(default_factory=list)

    def ready(self) -> None:
        """Nothing to load."""

    def write(self, questions: Sequence[tuple[Message, ...]], seeds: Sequence[int]) -> list[str | None]:
        """One or the other, by the question."""
        return [
            self._reply(turns[-1].parts[-1].data, seed) for turns, seed in zip(questions, seeds, strict=True)
        ]

    def _reply(self, question: str, seed: int) -> str | None:
        if "Second text:\n" in question:
            first, second = question.partition("First text:\n")[2].split("\n\nSecond text:\n")
            return self.same(first, second)
        text = question.partition("Text:\n")[2]
        self.asked.append((text, seed))
        return self.again(text, sum(one == text for one, _ in self.asked))


def numbered(text: str, number: int) -> str:
    return f"Rewritten:\n{text}{number}"


def row(chosen: str = "good", rejected: str | None = "bad ", name: str = "r") -> Asked:
    sides = {} if rejected is None else {"rejected": (Part("text", rejected),)}
    turns = (Message("user", (Part("text", "What is there?"),)),)
    return Asked(name, turns, (Part("text", chosen),), "", sides)


def made(writer: Writer, *rows: Asked, judge: Any = None, **fields: Any) -> list[Remade]:
    tools = Tools(Pool(rows), SimpleNamespace(), SimpleNamespace(), writer, judge)  # type: ignore[arg-type]
    return HaDpo(**fields).make(rows, tools, 7)


def sides(remade: Remade) -> list[tuple[str, str]]:
    return [tuple(new.answers[side].data for side in ("chosen", "rejected")) for new in remade.rows]  # type: ignore[union-attr, misc]


def test_every_rewritten_chosen_side_meets_every_rejected_one() -> None:
    writer = Scripted(numbered)
    (found,) = made(writer, row(), rewrites=2)
    assert sides(found) == [("good1", "bad1"), ("good1", "bad2"), ("good2", "bad1"), ("good2", "bad2")]
    assert [new.name for new in found.rows] == ["1-1", "1-2", "2-1", "2-2"] and not found.counts
    assert [new.told["rewrites"] for new in found.rows] == [[a, b] for a in (1, 2) for b in (1, 2)]
    good, bad = ([seed for text, seed in writer.asked if text == one] for one in ("good", "bad"))
    assert good == bad and len(set(good)) == 2, "one seed for both sides, another one each time"
    assert [new.told["seeds"] for new in found.rows] == [
        {"chosen": a, "rejected": b} for a in good for b in bad
    ]
    (matched,) = made(Scripted(numbered), row(), rewrites=2, pairs="matched")
    assert sides(matched) == [("good1", "bad1"), ("good2", "bad2")]


def test_what_is_not_written_as_asked_is_counted() -> None:
    replies = {("good", 1): "Rewritten:\n", ("good", 2): "Sure! Rewritten: fine", ("good", 3): None}
    (none,) = made(Scripted(lambda text, number: replies.get((text, number), "Rewritten:\n\nbad")), row())
    assert none.rows == () and none.counts == {ha_dpo.UNREAD: 3, ha_dpo.REPEATED: 2}
    (same,) = made(Scripted(lambda text, number: "Rewritten:\none"), row(), rewrites=1)
    assert same.rows == () and same.counts == {ha_dpo.EQUAL: 1}


def test_rows_without_two_texts_are_left_out() -> None:
    pictured = Asked("p", row().turns, (Part("image", None),), "", row().sides)
    found = made(Scripted(numbered), row(rejected=None), pictured, row(rejected=" ", name="s"))
    assert [one.counts for one in found] == [Counter({ha_dpo.SINGLE: 1})] * 3


def test_other_facts_and_no_verdict_are_left_out() -> None:
    verdicts = {"good1": "yes", "good2": "No", "bad1": "perhaps", "bad2": "YES"}
    writer = Scripted(numbered, lambda first, second: verdicts[second])
    (found,) = made(writer, row(), rewrites=2)
    assert sides(found) == [("good1", "bad2")]
    assert found.counts == {ha_dpo.CHANGED: 1, ha_dpo.UNSAID: 1}
    (all_,) = made(writer, row(), rewrites=1, verify=False)
    assert len(all_.rows) == 1


def test_sides_of_far_other_lengths_are_no_pair() -> None:
    for ratio, kept in (((0.5, 2.0), 1), ((0.9, 1.1), 0), ((0.75, 1.0), 1)):
        (found,) = made(
            Scripted(lambda text, _: f"Rewritten:\n{text}"), row("four", "six"), rewrites=1, len_ratio=ratio
        )
        assert len(found.rows) == kept and found.counts == ({} if kept else {ha_dpo.UNEVEN: 1})


def test_a_judge_must_find_the_chosen_side_better() -> None:
    class Longer:
        def score(self, prompt: Any, response: Part) -> dict[str, float]:
            return {"score": float(len(response.data))}

    found, other = made(Scripted(numbered), row(), row("bad", "good", "s"), judge=Longer(), rewrites=1)
    assert found.rows[0].columns == {"chosen_score": 5.0, "rejected_score": 4.0, "margin": 1.0}
    assert other.rows == () and other.counts == {NO_BETTER: 1}
    (far,) = made(Scripted(numbered), row(), judge=Longer(), rewrites=1, min_gap=1.0)
    assert far.counts == {NO_BETTER: 1}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"style": " "}, "style: must say how"),
        ({"rewrites": 0}, "rewrites: must be 1 or more"),
        ({"len_ratio": (1.2, 2.0)}, "len_ratio: must hold 1"),
        ({"min_gap": -0.1}, "min_gap: must be 0 or more"),
    ],
)
def test_settings_that_make_no_sense(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        HaDpo(**fields)


# ---------------------------------------------------------------- the built-in world


def asked(text: str) -> tuple[Message, ...]:
    return (Message("user", (Part("text", text),)),)


def test_the_writer_of_the_built_in_world_keeps_the_facts() -> None:
    caption = "a red circle, a blue cross and a red circle"
    texts = {styles(asked(f"Text:\n{caption}"), seed) for seed in range(30)}
    assert len(texts) == 3
    for reply in texts:
        assert reply is not None and reply.startswith("Rewritten:\n")
        text = reply.removeprefix("Rewritten:\n")
        assert [thing.phrase for thing in mentioned_things(text)] == [
            "a red circle",
            "a blue cross",
            "a red circle",
        ]
        assert styles(asked(f"First text:\n{caption}\n\nSecond text:\n{text}"), 0) == "Yes"
        assert (
            styles(asked(f"First text:\n{caption}\n\nSecond text:\n{text.replace('blue', 'red')}"), 0) == "No"
        )
    assert styles(asked("Text:\nyes"), 0) is None


def test_the_shipped_config_builds_pairs_of_one_style(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    more = ["num_prompts=16", "log.progress=false", f"output={tmp_path}/out"]
    folder = build(_config.load(ROOT / "configs/build/ha_dpo.yaml", more), ALONE)
    record = json.loads((folder / "build.json").read_text())
    samples = load(Jsonl(path=str(folder / "pairs.jsonl"))).samples
    assert len(samples) == record["kept"]["pairs"] > 12 and record["left_out"][ha_dpo.UNREAD] >= 4
    for sample in samples:
        one, two = (sample.examples[role][0].response[0].data for role in ("chosen", "rejected"))
        assert one.endswith(".") and two.endswith(".") and sample.labels["margin"] > 0
