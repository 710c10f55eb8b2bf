"""VLFeedback rows (arXiv 2312.10665): answers of several models to one question, rated by several aspects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format, LeftOut
from mmalign.data._markers import refuse_markers, user_turn
from mmalign.data._pairing import PairRule
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_IMAGES = ("image", "img_path")
_FIELDS = ("annotations", "response")


@dataclass(frozen=True)
class VlFeedback(Format):
    """`prompt`, `img_path` or `image`, and `completions`: a list of {annotations, response, model}, or one
    mapping of lists. `annotations` holds {aspect: {Rating, Rationale}}, a rating being a number or a numeral.

    The score of an answer is the mean of its ratings; aspects are scores of their names, for `data.pairs`.
    Without that rule all answers with unequal means make pairs. An answer with a rating that is no number
    takes part in none and is counted, and a row with fewer than two rated answers is left out.
    """

    columns = LABELS | {"prompt", "completions", *_IMAGES}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The prompt, the picture and the rated answers."""
        image = next((name for name in _IMAGES if name in row), None)
        found = row.get("completions")
        first = found[0] if isinstance(found, (list, tuple)) and found else found
        rated = isinstance(first, Mapping) and all(name in first for name in _FIELDS)
        return ("prompt", image, "completions") if image and rated and "prompt" in row else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted | LeftOut:
        """The answers as a list of responses with scores."""
        image = next((name for name in _IMAGES if row.get(name) is not None), _IMAGES[0])
        made = {key: row[key] for key in LABELS if row.get(key) is not None}
        reader.media(row.get(image), "image", image)
        made["images"] = [row[image]]
        made["prompt"] = user_turn(row.get("prompt"), "prompt", {"image": 1}, reader)
        answers, scores, unrated = [], [], 0
        for place, item in enumerate(_items(row.get("completions"), reader)):
            field = f"completions[{place}]"
            ratings = _ratings(item["annotations"], f"{field}.annotations", reader)
            if ratings is None:
                unrated += 1
                continue
            answers.append(refuse_markers(reader.text(item["response"], field), field, reader))
            scores.append({**ratings, "score": sum(ratings.values()) / len(ratings)})
        if len(answers) < 2:
            return LeftOut("with fewer than two rated answers", unrated)
        made |= {"responses": answers, "scores": scores}
        names = {"images": image, "responses": "completions", "scores": "completions"}
        return Converted(made, names, pairs=PairRule(strategy="all"), unrated=unrated)


def _items(found: Any, reader: Reader) -> list[Mapping[str, Any]]:
    """The answers as mappings, in either layout."""
    if isinstance(found, Mapping):
        columns = {name: found.get(name) for name in _FIELDS}
        lengths = {len(one) if isinstance(one, (list, tuple)) else -1 for one in columns.values()}
        if len(lengths) > 1 or lengths == {-1}:
            rule = "must hold lists of annotations and of responses, equally long"
            raise reader.fail("completions", rule)
        return [dict(zip(_FIELDS, one, strict=True)) for one in zip(*columns.values(), strict=True)]
    if not isinstance(found, (list, tuple)):
        raise reader.fail("completions", "must be a list of answers, or a mapping of lists")
    for place, item in enumerate(found):
        if not isinstance(item, Mapping) or not all(name in item for name in _FIELDS):
            raise reader.fail(f"completions[{place}]", "must hold annotations and response")
    return list(found)


def _ratings(found: Any, field: str, reader: Reader) -> dict[str, float] | None:
    """{aspect: rating}; None if one of them is no number."""
    if not isinstance(found, Mapping) or not found:
        raise reader.fail(field, "must be {aspect: {Rating, Rationale}}")
    ratings = {}
    for aspect, note in found.items():
        value = note.get("Rating") if isinstance(note, Mapping) else note
        try:
            ratings[str(aspect)] = reader.number(float(value) if isinstance(value, str) else value, field)
        except ValueError:  # "N/A", null, nan
            return None
    return ratings
