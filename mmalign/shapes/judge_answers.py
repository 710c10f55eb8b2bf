"""What a text says of a picture or a clip, against what is there: verdicts with a number for every respect.

The picture or clip is read from its pixels (`judge_sight.py`), the question from the prompt's words.
"""

import re
from collections.abc import Mapping, Sequence

from PIL import Image

from mmalign.clips import Clip
from mmalign.shapes.clip_text import MOTION_ANSWERS, parse_motion_question
from mmalign.shapes.clips import USUAL_MOTION
from mmalign.shapes.judge_sight import Moved, read_clip, read_picture
from mmalign.shapes.sight_text import COUNTS, DESCRIBE_PICTURE, caption_of, named_things, parse_question
from mmalign.shapes.sights import COLOURS, KINDS, Thing
from mmalign.types import UserError

_THING = rf"({'|'.join(COLOURS)}) ({'|'.join(KINDS)})"
_ORDER = re.compile(rf"Which comes first, the {_THING} or the {_THING}\?")
_COUNT = "How many objects are there?"


def judge_sight_answer(image: Image.Image, question: str, answer: str) -> Mapping[str, float]:
    """Judge a caption, or the answer to a presence question, about a picture.

    Of a caption: `recall`, the share of the objects that it names; `hallucinates`, 1 if it names a thing
    that is not there; `exact`, 1 if it is the caption; `score`, recall minus the share of the named things
    that are not there. Of a presence question: `presence` and `score`, 1 if right. UserError for others.
    """
    things = tuple(one.thing for one in read_picture(image))
    if question == DESCRIBE_PICTURE:
        return judge_caption(things, answer)
    asked = parse_question(question)
    if asked is None:
        raise UserError(
            f"question {question!r} about a picture is not judged; ask {DESCRIBE_PICTURE!r} or "
            "'Is there a red circle?'"
        )
    right = float(answer.strip() == ("yes" if asked in things else "no"))
    return {"score": right, "presence": right}


def judge_caption(things: Sequence[Thing], caption: str) -> dict[str, float]:
    named, there = named_things(caption), frozenset(things)
    wrong = len(named - there)
    recall = len(named & there) / len(there) if there else float(not named)
    return {
        "score": recall - (wrong / len(named) if named else 0.0),
        "recall": recall,
        "hallucinates": float(wrong > 0),
        "exact": float(caption.strip() == (caption_of(things) if things else "")),
    }


def judge_clip_answer(clip: Clip, question: str, answer: str) -> Mapping[str, float]:
    """Judge the answer to a question about a clip: on motion, order, the number of objects, or presence.

    `score` is 1 if it is right, and so is the score that has the name of its topic. `habit` is given for a
    motion question about a thing that does not move its kind's usual way: 1 if the answer says it does.
    UserError for other questions, and for questions about things that the clip does not show.
    """
    moved = {one.thing: one for one in read_clip(clip)}
    topic, right = _right_answer(moved, question)
    said = answer.strip()
    verdict = {"score": float(said == right), topic: float(said == right)}
    thing = parse_motion_question(question)
    if thing is not None and moved[thing].motion != USUAL_MOTION[thing.kind]:
        verdict["habit"] = float(said == MOTION_ANSWERS[USUAL_MOTION[thing.kind]])
    return verdict


def right_clip_answer(clip: Clip, question: str) -> tuple[str, str | None]:
    """The topic of a question about a clip, and the answer that is right; None where none is. UserError as
    `judge_clip_answer`."""
    return _right_answer({one.thing: one for one in read_clip(clip)}, question)


def _right_answer(moved: Mapping[Thing, Moved], question: str) -> tuple[str, str | None]:
    if (thing := parse_motion_question(question)) is not None:
        return "motion", MOTION_ANSWERS[_shown(moved, thing, question).motion]
    if match := _ORDER.fullmatch(question):
        one, other = (_shown(moved, Thing(match[i + 1], match[i]), question) for i in (1, 3))
        first = min(one, other, key=lambda seen: seen.onset)
        return "order", f"the {first.thing.name}" if one.onset != other.onset else None
    if question == _COUNT:
        return "count", COUNTS[len(moved)] if len(moved) < len(COUNTS) else None
    if (thing := parse_question(question)) is not None:
        return "presence", "yes" if thing in moved else "no"
    raise UserError(
        f"question {question!r} about a clip is not judged; ask for motion, order, number or presence"
    )


def _shown(moved: Mapping[Thing, Moved], thing: Thing, question: str) -> Moved:
    if thing not in moved:
        raise UserError(f"question {question!r} is about a {thing.name}, which the clip does not show")
    return moved[thing]
