"""RLAIF-V rows (arXiv 2405.17220) with what was computed for them: log-probabilities, or scores of claims."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._markers import refuse_markers, user_turn
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_IMAGES = ("image", "image_path")
_SIDES = ("chosen", "rejected")
_COMPUTED = ("logps", "org_infos")


@dataclass(frozen=True)
class RlaifV(Format):
    """`image` (or `image_path` where that is null), `question`, `chosen`, `rejected`, and `logps` or
    `org_infos`; without these two the rows are those of rlhf_v.

    `logps` is a JSON list: sum, mean and single log-probabilities of the chosen answer, then of the rejected
    one, by the model that the set was made with. The sums and means become the answers' labels `logp_sum` and
    `logp_mean`; as reference scores of another model they would be wrong, so that none is read as such.
    `org_infos` holds `scores`, those of the chosen and the rejected answer (a list of two, or by name), which
    become the answers' `score`. `ds_question_id` is the group where the row has none.
    """

    columns = LABELS | {"question", *_SIDES, *_IMAGES, *_COMPUTED, "ds_question_id"}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The image, the texts and what was computed."""
        image = next((name for name in _IMAGES if name in row), None)
        computed = tuple(name for name in _COMPUTED if row.get(name) is not None)
        if image is None or not computed or "prompt" in row:
            return ()
        needed = ("question", *_SIDES)
        return (image, *needed, *computed) if all(name in row for name in needed) else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """The question as the prompt, the image as its only picture, numbers as labels of the answers."""
        image = next((name for name in _IMAGES if row.get(name) is not None), _IMAGES[0])
        made = {key: row[key] for key in LABELS if row.get(key) is not None}
        if row.get("ds_question_id") is not None:
            made.setdefault("group", row["ds_question_id"])
        reader.media(row.get(image), "image", image)
        made["images"] = [row[image]]
        made["prompt"] = user_turn(row.get("question"), "question", {"image": 1}, reader)
        made |= {side: refuse_markers(row.get(side), side, reader) for side in _SIDES}
        labels: dict[str, dict[str, float]] = {side: {} for side in _SIDES}
        if row.get("logps") is not None:
            _add_logps(_parsed(row["logps"], "logps", reader), labels, reader)
        if row.get("org_infos") is not None:
            _add_scores(_parsed(row["org_infos"], "org_infos", reader), labels, reader)
        made |= {f"{side}_score": found for side, found in labels.items() if found}
        return Converted(made, {"prompt": "question", "images": image, "group": "ds_question_id"})


def _parsed(value: Any, field: str, reader: Reader) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(reader.text(value, field))
    except json.JSONDecodeError as error:
        raise reader.fail(field, f"not valid JSON at character {error.pos}: {error.msg}") from None
    except RecursionError:
        raise reader.fail(field, "nested too deeply") from None


def _add_logps(found: Any, labels: Mapping[str, dict[str, float]], reader: Reader) -> None:
    if not isinstance(found, (list, tuple)) or len(found) != 6:
        raise reader.fail("logps", "must be a list of six: sum, mean and single values of either answer")
    for place, side in ((0, "chosen"), (3, "rejected")):
        for step, name in enumerate(("logp_sum", "logp_mean")):
            labels[side][name] = reader.number(found[place + step], f"logps[{place + step}]")


def _add_scores(found: Any, labels: Mapping[str, dict[str, float]], reader: Reader) -> None:
    scores = found.get("scores") if isinstance(found, Mapping) else None
    if scores is None:
        return
    if isinstance(scores, Mapping):
        scores = [scores.get(side) for side in _SIDES]
    if not isinstance(scores, (list, tuple)) or len(scores) != 2:
        raise reader.fail("org_infos.scores", "must hold the scores of the chosen and the rejected answer")
    for side, score in zip(_SIDES, scores, strict=True):
        labels[side]["score"] = reader.number(score, "org_infos.scores")
