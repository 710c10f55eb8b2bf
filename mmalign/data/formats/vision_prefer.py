"""Pictures judged by several aspects, as in VisionPrefer (arXiv 2404.15100): a list with scores by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._records import LABELS, MARKS
from mmalign.data._turns import Reader

_ASPECTS = ("prompt_following", "aesthetic", "fidelity", "harmlessness")
_PICTURES = ("image", "image_path", "file_name", "path")
_SCORES = ("scores", "annotations")
_TURNS = frozenset({"messages", "conversations"})


@dataclass(frozen=True)
class VisionPrefer(Format):
    """`prompt` and `images`, a list with at least two of them, each with its scores.

    An item of `images` holds the picture (`image`, `image_path`, `file_name` or `path`) and its aspects, in
    `scores` or `annotations` or beside the picture: `prompt_following`, `aesthetic`, `fidelity`,
    `harmlessness`; a score is a number, a numeral, or {score | rating, ...} with a rationale that is not
    read. Or `images` holds pictures alone, and every aspect is a column with one number per picture. How
    aspects decide is said by `data.pairs`: `by` and `policy`.
    """

    columns = LABELS | {"prompt", "images", "prompt_id", *_ASPECTS}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The pictures with aspects; a row with an answer or turns is none of these."""
        images = row.get("images")
        if not isinstance(images, (list, tuple)) or not images or (MARKS | _TURNS) & row.keys():
            return ()
        columns = tuple(name for name in _ASPECTS if isinstance(row.get(name), (list, tuple)))
        inside = isinstance(images[0], Mapping) and any(name in images[0] for name in (*_SCORES, *_ASPECTS))
        return ("prompt", "images", *columns) if "prompt" in row and (columns or inside) else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """The pictures as a list of responses with scores by aspect."""
        images = row.get("images")
        if not isinstance(images, (list, tuple)) or len(images) < 2:
            raise reader.fail("images", "must be a list of at least two pictures")
        reader.text(row.get("prompt"), "prompt")
        columns = {name: row[name] for name in _ASPECTS if row.get(name) is not None}
        made = {key: row[key] for key in LABELS if row.get(key) is not None}
        if row.get("prompt_id") is not None:
            made.setdefault("id", row["prompt_id"])
        made["prompt"] = row["prompt"]
        if columns:
            made |= {"response_images": list(images), "scores": _by_column(columns, len(images), reader)}
        else:
            items = [_item(item, f"images[{place}]", reader) for place, item in enumerate(images)]
            made |= {"response_images": [one for one, _ in items], "scores": [scores for _, scores in items]}
        return Converted(made, {"response_images": "images", "scores": "images"})


def _by_column(columns: Mapping[str, Any], count: int, reader: Reader) -> list[dict[str, float]]:
    for name, values in columns.items():
        if not isinstance(values, (list, tuple)) or len(values) != count:
            raise reader.fail(name, f"must be a list of {count} numbers, one per picture")
    return [
        {name: _score(values[place], f"{name}[{place}]", reader) for name, values in columns.items()}
        for place in range(count)
    ]


def _item(item: Any, field: str, reader: Reader) -> tuple[Any, dict[str, float]]:
    if not isinstance(item, Mapping):
        raise reader.fail(field, "must hold a picture and its scores")
    picture = next((name for name in _PICTURES if item.get(name) is not None), None)
    if picture is None:
        raise reader.fail(field, f"holds no picture; it is looked for in {', '.join(_PICTURES)}")
    inner = next((name for name in _SCORES if item.get(name) is not None), None)
    found: Any = item if inner is None else item[inner]
    if not isinstance(found, Mapping):
        raise reader.fail(f"{field}.{inner}", "must be scores by aspect")
    names: Sequence[str] = _ASPECTS if inner is None else list(found)
    scores = {
        name: _score(found[name], f"{field}.{name}", reader) for name in names if found.get(name) is not None
    }
    if not scores:
        raise reader.fail(field, f"has no score; aspects are {', '.join(_ASPECTS)}")
    return item[picture], scores


def _score(value: Any, field: str, reader: Reader) -> float:
    if isinstance(value, Mapping):
        keys = [key for key in value if str(key).lower() in ("score", "rating")]
        value = value[keys[0]] if len(keys) == 1 else None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise reader.fail(field, f"must be a number, got {value!r}") from None
    return reader.number(value, field)
