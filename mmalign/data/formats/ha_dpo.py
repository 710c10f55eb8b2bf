"""HA-DPO rows (arXiv 2311.16839): corrected descriptions in several wordings, or corrected yes/no answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format, LeftOut
from mmalign.data._markers import refuse_markers, user_turn
from mmalign.data._pairing import PairRule
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_ASKED = "Describe this image in detail."
_DESCRIBED = ("image_id", "chosen", "rejected")
_VERDICTS = {"true": True, "1": True, "false": False, "0": False}
_ANSWERED = ("image_id", "question", "chosen", "reject")


@dataclass(frozen=True)
class HaDpo(Format):
    """Descriptions: `image_id`, and `chosen` and `rejected` as lists of wordings; every chosen one makes a
    pair with every rejected one, unless `data.pairs` says otherwise. The question is `question`, or
    "Describe this image in detail." where the row has none.

    Answers: `image_id`, `question`, `chosen`, `reject`; rows with `correct` true (or 1), whose answer was
    right, hold no preference and are left out.

    The picture is `image` where given, else the file `<image_id>.jpg` in data.root. A file of descriptions
    that is one mapping from image ids is to be written as a list of such rows first.
    """

    columns = LABELS | {*_ANSWERED, "rejected", "image", "correct", "answer"}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The image's id and the wordings, or the question and its answers."""
        if "prompt" in row:
            return ()
        if all(name in row for name in _ANSWERED) and "rejected" not in row:
            return _ANSWERED
        lists = all(isinstance(row.get(name), (list, tuple)) for name in _DESCRIBED[1:])
        texts = lists and all(isinstance(one, str) for name in _DESCRIBED[1:] for one in row[name])
        beside = tuple(name for name in ("image", "question") if name in row)
        return (*_DESCRIBED, *beside) if texts and "image_id" in row else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted | LeftOut:
        """A list whose chosen wordings have score 1, or a pair."""
        if _is_right(row.get("correct"), reader):
            return LeftOut("answered rightly")
        made = {key: row[key] for key in LABELS if row.get(key) is not None}
        made["images"] = [_picture(row, reader)]
        asked = row.get("question") or _ASKED
        made["prompt"] = user_turn(asked, "question", {"image": 1}, reader)
        names = {"prompt": "question", "images": "image" if row.get("image") is not None else "image_id"}
        worse = "reject" if row.get("reject") is not None else "rejected"
        if not isinstance(row.get("chosen"), (list, tuple)):
            made["chosen"] = refuse_markers(row.get("chosen"), "chosen", reader)
            made["rejected"] = refuse_markers(row.get(worse), worse, reader)
            return Converted(made, names | {"rejected": worse})
        answers, scores = [], []
        for name, score in {"chosen": 1.0, worse: 0.0}.items():
            texts = row.get(name)
            if not isinstance(texts, (list, tuple)) or not texts:
                raise reader.fail(name, "must be a list of wordings that is not empty")
            for place, text in enumerate(texts):
                answers.append(refuse_markers(reader.text(text, f"{name}[{place}]"), name, reader))
                scores.append(score)
        made |= {"responses": answers, "scores": scores}
        return Converted(made, names | {"responses": "chosen"}, pairs=PairRule(strategy="all"))


def _is_right(correct: Any, reader: Reader) -> bool:
    """Whether a row says that its answer was right; a row that does not say so is one to learn from."""
    if correct is None:
        return False
    told = _VERDICTS.get(correct.strip().lower()) if isinstance(correct, str) else correct
    if not isinstance(told, (bool, int, float)) or told not in (0, 1):
        raise reader.fail("correct", f"must be true or false, got {correct!r}")
    return bool(told)


def _picture(row: Mapping[str, Any], reader: Reader) -> Any:
    if row.get("image") is not None:
        reader.media(row["image"], "image", "image")
        return row["image"]
    name = row.get("image_id")
    if isinstance(name, bool) or not isinstance(name, (str, int)) or name == "":
        raise reader.fail("image_id", f"must be a text or a whole number, got {name!r}")
    return name if isinstance(name, str) and "." in name else f"{name}.jpg"
