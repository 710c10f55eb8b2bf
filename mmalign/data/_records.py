"""The canonical record: one mapping of a file -> one PreferenceSample, every field checked.

Four shapes of rows: a pair (`chosen`, `rejected`), one response (`completion`, with a `label` or without),
a list (`responses` with `scores` or `ranks`), and a prompt alone, to be answered in training. A score is a
number, or numbers by name if there are several.
`images` and `videos` belong to the prompt; `chosen_images`, `rejected_images`, `chosen_videos` and
`rejected_videos` stand in their place for one side of a pair, while `chosen_image` and `rejected_image` are
answers. `retrieved_images` stand in their place in a third role, `chosen_retrieved`, with the chosen answer.
`bdhs` is a third answer, in a role of that name; where there is no `rejected`, it is that one, too.
`chosen_critique` and `rejected_critique` tell good and bad of an answer; each is a role of its own.
`mask` says where pictures count, `segments` which clip is better when. Fields that belong to none
of them are not read; the caller counts and names them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from mmalign.data._digest import digest, sample_digest
from mmalign.data._record_labels import flag, labels_of
from mmalign.data._turns import Answer, MediaKind, Reader, common_turns, insert_media
from mmalign.messages import criticised
from mmalign.types import Example, Message, Part, PreferenceSample, UserError

Shape = Literal["pair", "single", "list", "prompt"]

CRITIQUES = ("chosen_critique", "rejected_critique")
"""Fields, and roles, of what is said of both answers of a pair."""
BLIND = "bdhs"
"""Field and role of an answer that a model wrote while most of the picture was hidden from it."""
_COMMON = frozenset(
    {"id", "prompt", "system", "images", "videos", "weight", "margin", "tie", "group", "user", "split"}
    | {"spans", "mask"}
)
_BUILT = frozenset({"built"})  # how a build came to the row: for people, known and not read
_FIELDS: dict[Shape, frozenset[str]] = {
    "pair": frozenset(
        {"chosen", "rejected", "chosen_image", "rejected_image", "chosen_score", "rejected_score"}
        | {"prompt_chosen", "prompt_rejected"}
        | {"chosen_images", "rejected_images", "chosen_videos", "rejected_videos", "segments"}
        | {"retrieved_images", "bdhs", *CRITIQUES}
    ),
    "single": frozenset({"completion", "completion_image", "label", "score"}),
    "list": frozenset({"responses", "response_images", "scores", "ranks"}),
    "prompt": frozenset(),
}
_MARKS: dict[Shape, tuple[str, ...]] = {
    "pair": ("chosen", "rejected", "chosen_image", "rejected_image"),
    "single": ("completion", "completion_image"),
    "list": ("responses", "response_images"),
}
CANONICAL = _COMMON.union(*_FIELDS.values())
MARKS = frozenset(mark for marks in _MARKS.values() for mark in marks)
PROMPT = "prompt"
"""The role of a row that has nothing but a prompt."""
LABELS = frozenset({"id", "weight", "margin", "tie", "group", "user", "split", "spans", "mask"})


@dataclass(frozen=True)
class Record:
    """A sample as read from one row, with the columns of the row that were not used."""

    sample: PreferenceSample
    unused: tuple[str, ...]


def read_record(
    row: Mapping[str, Any], origin: str, number: int, root: str, names: Mapping[str, str] | None = None
) -> Record:
    """Check one row and turn it into a sample; `number` is its place in the source (for the default id).

    `names` gives the columns that fields came from. Raises UserError naming the origin, the field, the value
    and the rule.
    """
    reader = Reader(origin, root, names or {})
    if not isinstance(row, Mapping):
        raise UserError(f"{origin}: a row must be a mapping of fields, got {type(row).__name__}")
    shape = _shape(row, origin)
    examples = _EXAMPLES[shape](row, reader)
    labels = labels_of(row, examples, reader)
    if shape == "single" and row.get("label") is not None:
        labels["binary"] = flag(row["label"], "label", reader)
    if all(name in examples for name in CRITIQUES):
        labels["criticised"] = float(row.get(CRITIQUES[0]) is not None)
    weight = 1.0 if row.get("weight") is None else reader.number(row["weight"], "weight")
    if weight <= 0:
        raise reader.fail("weight", f"must be above 0, got {weight:g}")
    sample = PreferenceSample("", examples, labels, weight, origin)
    used = _COMMON | _FIELDS[shape] | _BUILT
    unused = tuple(str(key) for key in row if key not in used)
    return Record(_with_id(sample, row.get("id"), number, reader), unused)


def _with_id(sample: PreferenceSample, given: Any, number: int, reader: Reader) -> PreferenceSample:
    if given is None:
        name = digest(number, sample_digest(sample))[:16]
    elif isinstance(given, str) and given.strip():
        name = reader.text(given, "id")
    elif isinstance(given, int) and not isinstance(given, bool):
        name = str(given)
    else:
        raise reader.fail("id", f"must be a text or a whole number, got {given!r}")
    return PreferenceSample(name, sample.examples, sample.labels, sample.weight, sample.origin)


def _shape(row: Mapping[str, Any], origin: str) -> Shape:
    found: list[Shape] = [
        shape for shape, marks in _MARKS.items() if any(row.get(m) is not None for m in marks)
    ]
    if not found:  # a null answer still tells what the row was meant to be
        found = [shape for shape, marks in _MARKS.items() if any(mark in row for mark in marks)][:1]
    if not found and row.get("prompt") is not None:
        return "prompt"
    if not found:
        columns = ", ".join(sorted(str(key) for key in row)) or "none"
        raise UserError(
            f"{origin}: no chosen and rejected, completion or responses; its columns are {columns} "
            "(data.columns maps canonical fields to columns)"
        )
    if len(found) > 1:
        marks = sorted(mark for shape in found for mark in _MARKS[shape] if row.get(mark) is not None)
        raise UserError(f"{origin}: fields of different kinds of rows in one row: {', '.join(marks)}")
    return found[0]


def _value(row: Mapping[str, Any], name: str, reader: Reader) -> Any:
    """The value of a response field, given as itself or as `<name>_image`."""
    image, value = row.get(f"{name}_image"), row.get(name)
    if image is not None and value is not None:
        other = f"{name}_image"
        raise reader.fail(
            name, f"given beside {other}; keep one, or switch one off: columns: {{{other}: null}}"
        )
    if image is not None:
        return {"image": image}
    if name not in row:
        near = difflib.get_close_matches(name, [str(key) for key in row], 1, 0.75)
        raise reader.fail(name, "is missing" + (f"; did you mean the column {near[0]!r}?" if near else ""))
    return value


def _media(row: Mapping[str, Any], role: str, reader: Reader) -> dict[MediaKind, tuple[str, list[Part]]]:
    """Images and videos of one role's prompt: {kind: (field, values)}."""
    found: dict[MediaKind, tuple[str, list[Part]]] = {}
    kinds: tuple[MediaKind, ...] = ("image", "video")
    for kind in kinds:
        own = f"{role}_{kind}s"
        name = own if role and row.get(own) is not None else f"{kind}s"
        given = row.get(name)
        values = given if isinstance(given, (list, tuple)) else [] if given is None else [given]
        found[kind] = name, [reader.media(one, kind, f"{name}[{place}]") for place, one in enumerate(values)]
    return found


def _prompt(row: Mapping[str, Any], name: str, reader: Reader) -> tuple[Message, ...] | None:
    """The prompt of a row without its images; None if the row has none."""
    if row.get(name) is None:
        return None
    return reader.prompt(row[name], name)


def _finish(
    prompt: tuple[Message, ...], row: Mapping[str, Any], reader: Reader, role: str = ""
) -> tuple[Message, ...]:
    """The system turn in front and the media in their places; `role`: the side whose own media count."""
    if row.get("system") is not None:
        system = reader.text(row["system"], "system")
        if prompt[0].speaker == "text":
            raise reader.fail("system", "needs a chat prompt: write it as [{role: user, content: ...}]")
        if prompt[0].speaker == "system":
            raise reader.fail("system", "given beside a system turn in the prompt; keep one")
        prompt = (Message("system", (Part("text", system),)), *prompt)
    return insert_media(reader, prompt, _media(row, role, reader))


def _join(
    prompt: tuple[Message, ...] | None, answer: Answer, field: str, reader: Reader
) -> tuple[tuple[Message, ...], tuple[Part, ...]]:
    """Prompt and response parts of one answer; a whole conversation must begin with the prompt."""
    if not answer.turns:
        if prompt is None:
            raise reader.fail("prompt", "is missing; answers that are no conversations need one")
        return prompt, answer.parts
    if prompt is None:
        if len(answer.turns) < 2:
            raise reader.fail("prompt", "is missing, and the answer holds a single turn")
        return answer.turns[:-1], answer.turns[-1].parts
    if prompt[0].speaker == "text":  # chat answers make a chat of a plain prompt
        prompt = (Message("user", prompt[0].parts),)
        if len(answer.turns) > 2 and answer.turns[0].speaker == "system":
            prompt = (answer.turns[0], *prompt)
    if len(answer.turns) == 1:
        return prompt, answer.turns[0].parts
    if digest(answer.turns[:-1]) != digest(prompt):
        raise reader.fail(field, "is a conversation that does not begin with exactly the prompt's turns")
    return prompt, answer.turns[-1].parts


def _pair(row: Mapping[str, Any], reader: Reader) -> dict[str, tuple[Example, ...]]:
    if row.get("bdhs") is not None and row.get("rejected") is None and row.get("rejected_image") is None:
        row = {**row, "rejected": row["bdhs"]}
    answers = {role: reader.answer(_value(row, role, reader), role) for role in ("chosen", "rejected")}
    shared = _prompt(row, "prompt", reader)
    own = {role: _prompt(row, f"prompt_{role}", reader) or shared for role in answers}
    if shared is None and all(prompt is None for prompt in own.values()):
        if any(not answer.turns for answer in answers.values()):
            raise reader.fail("prompt", "is missing; answers that are no conversations need one")
        prefix = common_turns([answer.turns for answer in answers.values()])
        for role, answer in answers.items():
            if len(answer.turns) != len(prefix) + 1:
                rule = "the conversations part before the last turn; give prompt_chosen and prompt_rejected"
                raise reader.fail(role, rule)
    examples: dict[str, tuple[Example, ...]] = {}
    retrieved: Example | None = None
    for role, answer in answers.items():
        prompt, response = _join(own[role], answer, role, reader)
        labels = _scores(row.get(f"{role}_score"), f"{role}_score", reader)
        examples[role] = (Example(_finish(prompt, row, reader, role), response, labels),)
        if role == "chosen" and row.get("retrieved_images") is not None:
            retrieved = Example(_finish(prompt, row, reader, "retrieved"), response)
    if retrieved is not None:
        examples["chosen_retrieved"] = (retrieved,)
    if row.get("bdhs") is not None:
        examples["bdhs"] = (_third(row, "bdhs", examples["chosen"][0], own["chosen"], reader),)
    examples |= _critiques(row, examples, reader)
    speakers = {examples[role][0].prompt[-1].speaker for role in examples}
    if len(speakers) > 1:
        raise reader.fail("rejected", "chosen and rejected must both be plain text or both be chat")
    return examples


def _third(
    row: Mapping[str, Any], name: str, chosen: Example, own: tuple[Message, ...] | None, reader: Reader
) -> Example:
    """Another answer to what the chosen one answers; `own`: that prompt, where the row gives it."""
    answer = reader.answer(row[name], name)
    if not answer.turns:
        return Example(chosen.prompt, answer.parts)
    prompt, response = _join(own, answer, name, reader)
    return Example(_finish(prompt, row, reader, "chosen"), response)


def _critiques(
    row: Mapping[str, Any], examples: Mapping[str, tuple[Example, ...]], reader: Reader
) -> dict[str, tuple[Example, ...]]:
    """Roles of critiques, each behind the answer and the question for it. A row whose two columns are there
    and empty has both roles, with the bare answers."""
    bare = all(name in row and row[name] is None for name in CRITIQUES)
    found: dict[str, tuple[Example, ...]] = {}
    for name, role in zip(CRITIQUES, ("chosen", "rejected"), strict=True):
        side = examples[role][0]
        if bare:
            found[name] = (Example(side.prompt, side.response),)
        elif row.get(name) is not None:
            said = Part("text", reader.text(row[name], name))
            found[name] = (Example(criticised(side.prompt, side.response), (said,)),)
    return found


def _single(row: Mapping[str, Any], reader: Reader) -> dict[str, tuple[Example, ...]]:
    answer = reader.answer(_value(row, "completion", reader), "completion")
    prompt, response = _join(_prompt(row, "prompt", reader), answer, "completion", reader)
    labels = _scores(row.get("score"), "score", reader)
    role = "chosen" if row.get("label") is None else "completion"
    return {role: (Example(_finish(prompt, row, reader), response, labels),)}


def _list(row: Mapping[str, Any], reader: Reader) -> dict[str, tuple[Example, ...]]:
    name = "responses" if row.get("responses") is not None else "response_images"
    if row.get("responses") is not None and row.get("response_images") is not None:
        raise reader.fail("responses", "given beside response_images; keep one")
    values = row[name]
    if not isinstance(values, (list, tuple)) or len(values) < 2:
        raise reader.fail(name, "must be a list of at least two responses")
    columns = {key: row[key] for key in ("scores", "ranks") if row.get(key) is not None}
    if not columns:
        raise reader.fail(name, "needs scores (higher is better) or ranks (lower is better)")
    for key, given in columns.items():
        if not isinstance(given, (list, tuple)) or len(given) != len(values):
            raise reader.fail(key, f"must be a list of {len(values)} numbers, one per response")
    prompt = _prompt(row, "prompt", reader)
    examples = []
    for place, value in enumerate(values):
        field = f"{name}[{place}]"
        answer = reader.answer({"image": value} if name == "response_images" else value, field)
        its_prompt, response = _join(prompt, answer, field, reader)
        labels: dict[str, float] = {}
        if "scores" in columns:
            labels |= _scores(columns["scores"][place], f"scores[{place}]", reader, required=True)
        if "ranks" in columns:
            labels["rank"] = reader.number(columns["ranks"][place], f"ranks[{place}]")
        examples.append(Example(_finish(its_prompt, row, reader), response, labels))
    if len({example.prompt[-1].speaker for example in examples}) > 1:
        raise reader.fail(name, "must all be plain text or all be chat")
    return {"responses": tuple(examples)}


def _alone(row: Mapping[str, Any], reader: Reader) -> dict[str, tuple[Example, ...]]:
    return {PROMPT: (Example(_finish(reader.prompt(row["prompt"], "prompt"), row, reader), ()),)}


def _scores(value: Any, field: str, reader: Reader, required: bool = False) -> dict[str, float]:
    """Labels of one response: a number is its score, a mapping gives several scores by name."""
    if value is None and not required:
        return {}
    if not isinstance(value, Mapping):
        return {"score": reader.number(value, field)}
    given = {name: score for name, score in value.items() if score is not None}
    if not given or not all(isinstance(name, str) and name for name in given):
        raise reader.fail(field, "must be a number, or numbers by name")
    return {name: reader.number(score, f"{field}.{name}") for name, score in given.items()}


_EXAMPLES = {"pair": _pair, "single": _single, "list": _list, "prompt": _alone}
