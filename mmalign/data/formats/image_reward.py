"""ImageReward rows (arXiv 2304.05977): people's ranks of the pictures of one prompt, in four layouts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_PICTURES = ("image", "image_path")
_PAIR = ("img_better", "img_worse")
_RATINGS = ("overall_rating", "image_text_alignment_rating", "fidelity_rating")


@dataclass(frozen=True)
class ImageReward(Format):
    """One picture a row: `prompt_id`, `prompt`, `image` (or `image_path`), `rank` (1 is best); rows of one
    prompt id become a list. The same with lists in those columns; `generations` and `ranking`; or a pair in
    `img_better` and `img_worse`.

    Ratings (`overall_rating`, `image_text_alignment_rating`, `fidelity_rating`) are scores of their names.
    """

    columns = LABELS | {
        "prompt",
        "prompt_id",
        "rank",
        "generations",
        "ranking",
        *_PICTURES,
        *_PAIR,
        *_RATINGS,
    }

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The prompt, its pictures and their ranks."""
        picture = next((name for name in _PICTURES if name in row), "image")
        for layout in (("generations", "ranking"), ("prompt_id", *_PAIR), ("prompt_id", picture, "rank")):
            if "prompt" in row and all(name in row for name in layout):
                return ("prompt", *layout)
        return ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """A list, a pair, or one picture of a group."""
        reader.text(row.get("prompt"), "prompt")
        made = {key: row[key] for key in LABELS if row.get(key) is not None} | {"prompt": row["prompt"]}
        if row.get("generations") is not None:
            made |= {"response_images": row["generations"], "ranks": row.get("ranking")}
            return Converted(made, {"response_images": "generations", "ranks": "ranking"})
        if row.get("img_better") is not None or row.get("img_worse") is not None:
            for name in _PAIR:
                reader.media(row.get(name), "image", name)
            made |= {"chosen_image": row["img_better"], "rejected_image": row["img_worse"]}
            return Converted(made, {"chosen": "img_better", "rejected": "img_worse"})
        name = next((one for one in _PICTURES if row.get(one) is not None), _PICTURES[0])
        if isinstance(row.get(name), (list, tuple)):
            return self._list(row, name, made, reader)
        reader.media(row.get(name), "image", name)
        group = row.get("prompt_id")
        if isinstance(group, bool) or not isinstance(group, (str, int)) or group == "":
            raise reader.fail("prompt_id", f"must be a text or a whole number, got {group!r}")
        ratings = {one: row[one] for one in _RATINGS if row.get(one) is not None}
        made |= {"completion_image": row[name], "score": {"rank": row.get("rank"), **ratings}}
        reader.number(row.get("rank"), "rank")
        return Converted(made, {"completion": name}, group=str(group))

    def _list(self, row: Mapping[str, Any], name: str, made: dict[str, Any], reader: Reader) -> Converted:
        pictures = row[name]
        given = {one: row[one] for one in ("rank", *_RATINGS) if row.get(one) is not None}
        if "rank" not in given:
            raise reader.fail("rank", "is missing; a list of pictures needs their ranks")
        for one, values in given.items():
            if not isinstance(values, (list, tuple)) or len(values) != len(pictures):
                raise reader.fail(one, f"must be a list of {len(pictures)} numbers, one per picture")
            for place, value in enumerate(values):
                reader.number(value, f"{one}[{place}]")
        scores = [{one: values[place] for one, values in given.items()} for place in range(len(pictures))]
        if row.get("prompt_id") is not None:
            made.setdefault("id", row["prompt_id"])
        made |= {"response_images": list(pictures), "scores": scores}
        return Converted(made, {"response_images": name, "scores": "rank"})
