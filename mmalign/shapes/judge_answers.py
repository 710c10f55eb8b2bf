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
    said = answer.strip()
    if (thing := parse_motion_question(question)) is not None:
        motion = _shown(moved, thing, question).motion
        right = float(said == MOTION_ANSWERS[motion])
        usual = USUAL_MOTION[thing.kind]
        habit = {} if motion == usual else {"habit": float(said == MOTION_ANSWERS[usual])}
        return {"score": right, "motion": right} | habit
    if match := _ORDER.fullmatch(question):
        pair = [_shown(moved, Thing(match[i + 1], match[i]), question) for i in (1, 3)]
        first = min(pair, key=lambda one: one.onset)
        return _right("order", said == f"the {first.thing.name}" and pair[0].onset != pair[1].onset)
    if question == _COUNT:
        return _right("count", len(moved) < len(COUNTS) and said == COUNTS[len(moved)])
    if (thing := parse_question(question)) is not None:
        return _right("presence", said == ("yes" if thing in moved else "no"))
    raise UserError(
        f"question {question!r} about a clip is not judged; ask for motion, order, number or presence"
    )


def _right(topic: str, right: bool) -> dict[str, float]:
    return {"score": float(right), topic: float(right)}


def _shown(moved: Mapping[Thing, Moved], thing: Thing, question: str) -> Moved:
    if thing not in moved:
        raise UserError(f"question {question!r} is about a {thing.name}, which the clip does not show")
    return moved[thing]
