"""MIA-DPO's pairs for shapes_vlm.py, built from a model's own answers as configs/build/mia_dpo.yaml does it.

The built-in model takes an area of 48 x 48 pixels, in which the cells of a collage cannot be made out: all
pairs are sequences, of 2 to 4 pictures.
"""

import json
import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from _several_base import teach
from PIL import Image

from mmalign import api
from mmalign.builders._whole_rows import Remade
from mmalign.builders.mia_dpo import MiaDpo, _Question
from mmalign.shapes.judge_sight import read_picture
from mmalign.shapes.sight_text import parse_question
from mmalign.types import Attended, Part

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "configs" / "build" / "mia_dpo.yaml"
SEQUENCES = ["builder.layouts=[sequence]", "builder.sequence={counts: [2, 3, 4], share: [0.8, 0.7, 0.6]}"]
QUESTIONS = "prompts={{source: '_single:SingleRows', captions: false, num: {}}}"
BOTH = (
    "builder={name: '_several:BothAnswers', layouts: [sequence], cell: 48, min_perplexity: 1.0, "
    "sequence: {counts: [2, 3, 4], share: [1.0, 1.0, 1.0]}}"
)
BUILDS = {
    "mixed": [*SEQUENCES, "prompts={source: '_single:SingleRows'}"],
    "questions": [*SEQUENCES, QUESTIONS.format(12000)],
    "any": [BOTH, QUESTIONS.format(2400)],
}
Built = Literal[
    "mixed",
    "questions",
    "even",
    "even, drifted",
    "even, elsewhere",
    "even, wrong numbers",
    "any",
    "any, drifted",
    "any, elsewhere",
]
"""Pairs of captions and questions; of questions alone; of these as many in which yes is right as in which no
is; and as many again of questions that the model may have answered rightly. Of either, those whose answer
looked at its picture less than at the average one (`drifted`), or in which what is not in the picture is in
another (`elsewhere`); or with the numbers of other pictures.
"""
Row = dict[str, Any]


@dataclass(frozen=True)
class BothAnswers(MiaDpo):
    """MIA-DPO for questions of yes and no that rejects the wrong answer whatever the model says."""

    def _selected(self, question: _Question, found: Attended) -> Remade:
        other = Part("text", "no" if question.chosen == "yes" else "yes")
        made = super()._selected(question, replace(found, answer=other))
        said = {"said": str(found.answer.data).strip()}
        return replace(made, rows=tuple(replace(row, told={**row.told, **said}) for row in made.rows))


def taught(folder: Path) -> Path:
    """The model that was taught to read several pictures; it is taught once."""
    model = folder.parent / "taught"
    if not (model / "config.json").is_file():
        teach(model)
    return model


def built_pairs(start: str, built: Built, folder: Path) -> Path:
    """The file of pairs of a model; those that are built are built once."""
    if built in ("mixed", "questions"):
        return _build(start, built, folder)
    kind, _, which = built.partition(", ")
    pairs = _build(start, "questions" if kind == "even" else kind, folder)
    rows = _read(pairs)
    if which == "drifted":
        rows = [row for row in rows if row["built"]["share"] < 1 / row["built"]["pictures"]]
    elif which == "elsewhere":
        rows = [row for row in rows if row["chosen"] == "yes" or _is_elsewhere(row, pairs.parent)]
    rows = _balanced(rows)
    if kind == "any":
        rows = rows[: len(_balanced(_read(_build(start, "questions", folder))))]
    if which == "wrong numbers":
        rows = [_with_wrong_number(row) for row in rows]
    changed = pairs.with_name(f"{built.replace(', ', '_').replace(' ', '_')}.jsonl")
    changed.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return changed


def attention(start: str, folder: Path) -> dict[str, dict[str, float]]:
    """By number of pictures: how many questions there were and how many answers were wrong, the mean share of
    attention on the picture asked about of right and of wrong answers, the chance that a right one's is the
    larger, and how many were above MIA-DPO's threshold."""
    rows = _read(_build(start, "any", folder))
    found = {}
    for count, limit in ((2, 0.8), (3, 0.7), (4, 0.6)):
        own = [row for row in rows if row["built"]["pictures"] == count]
        right, wrong = (
            [r["built"]["share"] for r in own if (r["built"]["said"] == r["chosen"]) == was]
            for was in (True, False)
        )
        wins = [(a > b) + 0.5 * (a == b) for a in right for b in wrong]
        found[str(count)] = {
            "questions": len(own),
            "wrong": len(wrong),
            "share of right": round(statistics.fmean(right), 4),
            "share of wrong": round(statistics.fmean(wrong), 4),
            "larger": round(statistics.fmean(wins), 4),
            "above": sum(row["built"]["share"] > limit for row in own),
        }
    return found


def _build(start: str, rows: str, folder: Path) -> Path:
    output = folder.parent / f"mia-{start}-{rows}"
    pairs = output / "pairs.jsonl"
    if not pairs.is_file():
        overrides = [*BUILDS[rows], "num_prompts=null", f"output={output}", "log.progress=false"]
        overrides += [f"model.path={taught(folder)}"] if start == "taught" else []
        api.build(BUILD, *overrides)
    return pairs


def _read(path: Path) -> list[Row]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _balanced(rows: Sequence[Row]) -> list[Row]:
    """As many rows in which yes is right as in which no is, in turn."""
    out = MiaDpo(balance=("yes", "no")).sift(rows)
    sides = [[r for r in rows if r["id"] not in out and r["chosen"] == answer] for answer in ("yes", "no")]
    return [row for pair in zip(*sides, strict=True) for row in pair]


def _is_elsewhere(row: Row, folder: Path) -> bool:
    """Whether what a question asks for is in a picture that it does not ask about."""
    *shown, asked = row["prompt"][0]["content"]
    lead = f"In Image{row['built']['target']}, "
    text = asked["text"].strip()
    assert text.startswith(lead), text
    thing = parse_question(text[len(lead) :].capitalize())
    pictures = [Image.open(folder / part["image"]).convert("RGB") for part in shown if "image" in part]
    del pictures[row["built"]["target"] - 1]
    return any(thing in [seen.thing for seen in read_picture(picture)] for picture in pictures)


def _with_wrong_number(row: Row) -> Row:
    """The row with another picture's number in its question; both answers stay."""
    told = row["built"]
    others = [n for n in range(1, told["pictures"] + 1) if n != told["target"]]
    other = random.Random(f"wrong number {row['id']}").choice(others)
    text = json.dumps(row["prompt"]).replace(f"In Image{told['target']},", f"In Image{other},")
    assert text != json.dumps(row["prompt"])
    return {**row, "prompt": json.loads(text)}
