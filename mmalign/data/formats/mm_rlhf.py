"""MM-RLHF rows (arXiv 2502.10391): ranked answers to a question on pictures or a clip, as pairs or lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format
from mmalign.data._markers import count_media, rated, refuse_markers, user_turn
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_MEDIA = {"image": "images", "video": "videos"}
_SIDES = ("chosen", "rejected")
_SCORES = tuple(f"{side}_score" for side in _SIDES)
_REASONS = {f"{side}_reason": f"{side}_critique" for side in _SIDES}
_OWN = ("is_tie", "ls_factor", "delta", "chosen_reason", "rejected_reason", "mixed_up_image")
_ANSWER = ("response", "answer", "text", "content")
_SCORE = ("score", "rating")


@dataclass(frozen=True)
class MmRlhf(Format):
    """`image` or `video` (one value or a list; a clip may be a folder of frames, whose rate is `fps`) with
    `prompt`, and `chosen` and `rejected` or `responses`.

    Pairs: `is_tie` becomes the label tie; `delta`, the distance of the answers by a reward model, the label
    margin; `chosen_score` and `rejected_score` those of the answers; `chosen_reason` and `rejected_reason`
    their critiques. `ls_factor` (a beta factor that was computed beforehand) and reference log-probabilities
    of another model are not read. Lists: an item of
    `responses` holds the answer (`response`, `answer`, `text` or `content`) and its `score` (or `rating`) or
    `rank`, 1 being the best. One marker beside one medium is taken out and the medium comes first.
    """

    columns = LABELS | {
        *_MEDIA,
        "prompt",
        "responses",
        *_SIDES,
        *_SCORES,
        "is_tie",
        "delta",
        *_REASONS,
        "fps",
    }

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The media, the prompt, and a pair with what this set tells of it, or answers with scores inside."""
        media = tuple(name for name in _MEDIA if name in row)
        if not media or "prompt" not in row:
            return ()
        if _scored(row.get("responses")) and "scores" not in row and "ranks" not in row:
            return (*media, "prompt", "responses")
        own = tuple(name for name in _OWN if name in row)
        sides = all(name in row for name in _SIDES)
        return (*media, "prompt", *_SIDES, *own) if own and sides and "answer" not in row else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted:
        """A pair with its labels, or a list of responses with scores or ranks."""
        made = {key: row[key] for key in (*LABELS, *_SCORES) if row.get(key) is not None}
        names = {many: one for one, many in _MEDIA.items() if row.get(one) is not None}
        made |= {many: row[one] for many, one in names.items()}
        if "videos" in made:
            made["videos"] = rated(made["videos"], row.get("fps"))
        media = count_media(row, image="image", video="video")
        made["prompt"] = user_turn(row.get("prompt"), "prompt", media, reader, strip=True)
        if row.get("responses") is not None:
            return Converted(made | _list(row["responses"], reader), names | {"scores": "responses"})
        for own, label in {"is_tie": "tie", "delta": "margin"}.items():
            if row.get(own) is not None:
                made[label], names[label] = row[own], own
        made |= {critique: row[own] for own, critique in _REASONS.items() if own in row}
        names |= {critique: own for own, critique in _REASONS.items()}
        made |= {side: refuse_markers(row.get(side), side, reader) for side in _SIDES}
        return Converted(made, names)


def _scored(responses: Any) -> bool:
    if not isinstance(responses, (list, tuple)) or not responses or not isinstance(responses[0], Mapping):
        return False
    return any(name in responses[0] for name in (*_SCORE, "rank"))


def _list(responses: Any, reader: Reader) -> dict[str, Any]:
    """{responses, scores} of a list, each score with all that the item tells."""
    if not isinstance(responses, (list, tuple)) or len(responses) < 2:
        raise reader.fail("responses", "must be a list of at least two answers")
    answers, scores = [], []
    for place, item in enumerate(responses):
        field = f"responses[{place}]"
        if not isinstance(item, Mapping):
            raise reader.fail(field, "must hold an answer and its score or rank")
        name = next((one for one in _ANSWER if item.get(one) is not None), None)
        if name is None:
            raise reader.fail(field, f"holds no answer; it is looked for in {', '.join(_ANSWER)}")
        answers.append(refuse_markers(reader.text(item[name], f"{field}.{name}"), field, reader))
        score = next((one for one in _SCORE if item.get(one) is not None), None)
        found = {} if score is None else {"score": reader.number(item[score], f"{field}.{score}")}
        if item.get("rank") is not None:
            found["rank"] = reader.number(item["rank"], f"{field}.rank")
        if not found:
            raise reader.fail(field, "has neither a score nor a rank")
        scores.append(found)
    return {"responses": answers, "scores": scores}
