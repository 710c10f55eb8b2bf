"""Both models' answers to the same prompts, side by side, with what the judge gave them."""

from __future__ import annotations

from collections.abc import Mapping

from mmalign.evaluation.changes import apart
from mmalign.evaluation.comparison import TOTAL, Answered, Comparison
from mmalign.report.html import Child, Html, element, picture, section
from mmalign.report.plot import number
from mmalign.types import Part

MAX_PAIRS = 64
"""So many prompts are shown."""


def pairs(comparison: Comparison | None, measured: bool = False) -> Html:
    """Both models' answers side by side, in the order of the prompts: nothing is picked. `measured`: whether
    the run has answered a benchmark."""
    if comparison is None:
        said = "Only benchmarks so far, see above" if measured else "Not evaluated yet"
        without = " without --metric" if measured else ""
        hint = (
            f"{said}: mmalign evaluate{without} answers held-out prompts with the base and the tuned model."
        )
        return section("Before and after", element("p", {"class": "hint"}, hint))
    shown, every = comparison.rows[:MAX_PAIRS], len(comparison.rows)
    count = f"All {every} prompts" if len(shown) == every else f"The first {len(shown)} of {every} prompts"
    hint = f"{count}, repeats left out, not picked. "
    hint += f"Both models start from the same seeds (evaluation seed {comparison.seed})."
    kind = "texts" if any(row.base.kind == "text" for row in shown) else "pictures"
    cards = [_pair(row) for row in shown]
    return section(
        "Before and after",
        element("p", {"class": "hint"}, hint),
        element("div", {"class": f"pairs {kind}"}, *cards),
    )


def _pair(row: Answered) -> Html:
    head: list[Child] = [element("code", None, row.id)]
    if TOTAL in row.base_scores and TOTAL in row.tuned_scores:
        gap = row.tuned_scores[TOTAL] - row.base_scores[TOTAL]
        word = "tuned wins" if gap > 0 else "base wins" if gap < 0 else "tie"
        head.append(element("span", {"class": f"outcome {word.split()[0]}"}, word))
    media = [_answer(part, "picture in the prompt") for part in row.media]
    return element(
        "article",
        None,
        element("div", {"class": "head"}, *head),
        element("div", {"class": "prompt", "dir": "auto"}, *media, element("p", None, row.text)),
        element(
            "div",
            {"class": "answers"},
            _side("base", row.base, _shown(row.base_scores, row.tuned_scores), row.text),
            _side("tuned", row.tuned, _shown(row.tuned_scores, row.base_scores), row.text),
        ),
    )


def _side(name: str, answer: Part, scores: Mapping[str, str], prompt: str) -> Html:
    ordered = sorted(scores, key=lambda key: (key != TOTAL, key))
    listed = [element("li", None, f"{key} ", element("b", None, scores[key])) for key in ordered]
    return element(
        "figure",
        {"class": name},
        element("figcaption", None, name),
        _answer(answer, f"{name}: {prompt}"),
        *([element("ul", {"class": "scores"}, *listed)] if listed else []),
    )


def _shown(scores: Mapping[str, float], others: Mapping[str, float]) -> dict[str, str]:
    """Scores in few digits, with more where they would look like the other answer's and are not."""
    return {key: _apart(value, others.get(key, value)) for key, value in scores.items()}


def _apart(value: float, other: float) -> str:
    alike = value != other and number(value) == number(other)
    return apart(value, other)[0] if alike else number(value)


def _answer(part: Part, words: str) -> Html:
    if part.kind == "image":
        return picture(part.data, words)
    text = str(part.data)
    if not text.strip():
        return element("p", {"class": "answer empty"}, "(empty answer)")
    return element("p", {"class": "answer", "dir": "auto"}, text)
