"""HPD v2 rows (arXiv 2306.09341): the pictures of one prompt, with people's choice or ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._pairing import PairRule
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_PICTURES = ("file_path", "image_path")
_VERDICTS = ("human_preference", "rank")


@dataclass(frozen=True)
class HpdV2(Format):
    """`prompt`, `file_path` or `image_path` with a list of pictures, and `human_preference` (1 for the
    preferred ones) or `rank` (0 or 1 for the best), one number per picture.

    Two pictures make a pair; a longer list stays one until `data.pairs` says otherwise. Where the row has
    `raw_annotations`, rater N's ranks are the scores rater_N, negative so that more is better.
    """

    columns = LABELS | {"prompt", "raw_annotations", *_PICTURES, *_VERDICTS}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The prompt, the list of pictures and the verdict."""
        pictures = next((name for name in _PICTURES if _is_list(row.get(name))), None)
        verdict = next((name for name in _VERDICTS if _is_list(row.get(name))), None)
        if pictures is None or verdict is None or "prompt" not in row or "prompt_id" in row:
            return ()
        return ("prompt", pictures, verdict)

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """The pictures as a list of responses."""
        pictures = next((name for name in _PICTURES if row.get(name) is not None), _PICTURES[0])
        verdict = next((name for name in _VERDICTS if row.get(name) is not None), _VERDICTS[0])
        values = row.get(pictures)
        if not isinstance(values, (list, tuple)) or len(values) < 2:
            raise reader.fail(pictures, "must be a list of at least two pictures")
        given = _numbers(row.get(verdict), len(values), verdict, reader)
        if verdict == "human_preference" and not set(given) <= {0.0, 1.0}:
            raise reader.fail(verdict, f"must hold 1 for a preferred picture and 0 for others, got {given}")
        scores = [{"rank" if verdict == "rank" else "score": number} for number in given]
        for place, note in enumerate(row.get("raw_annotations") or (), 1):
            field = f"raw_annotations[{place - 1}]"
            ranks = note.get("rank") if isinstance(note, Mapping) else None
            for score, rank in zip(scores, _numbers(ranks, len(values), field, reader), strict=True):
                score[f"rater_{place}"] = -rank
        made = {key: row[key] for key in LABELS if row.get(key) is not None}
        reader.text(row.get("prompt"), "prompt")
        made |= {"prompt": row["prompt"], "response_images": list(values), "scores": scores}
        names = {"response_images": pictures, "scores": verdict}
        return Converted(made, names, pairs=PairRule() if len(values) == 2 else None)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _numbers(given: Any, count: int, field: str, reader: Reader) -> Sequence[float]:
    if not isinstance(given, (list, tuple)) or len(given) != count:
        raise reader.fail(field, f"must be a list of {count} numbers, one per picture")
    return [reader.number(value, f"{field}[{place}]") for place, value in enumerate(given)]
