"""The prompts that a build samples answers to, and the media that it makes copies of."""

from __future__ import annotations

from typing import Literal

from mmalign.builders import _media, _rows
from mmalign.builders._candidates import Asked, Builder
from mmalign.builders._config import BuildConfig, is_source
from mmalign.builders._whole_rows import RowBuilder
from mmalign.data._digest import digest
from mmalign.data._sources import load
from mmalign.types import Message, Part, PreferenceSample, UserError


def load_prompts(config: BuildConfig, kind: str, reads: frozenset[str]) -> tuple[list[Asked], list[str]]:
    """Every different prompt with its id, media not yet decoded, and what reading them had to tell.

    Of a data source's rows the prompt counts that their first role has, and for a builder or judge that
    reads answers its answer too, and those of further roles that it asks for; rows that its `heldout` keeps
    back are left out. A line of a prompt file is a caption to a model of surrogate `kind`, else a user's
    turn. `reads`: kinds of media that the model takes in prompts. Raises UserError for prompts that it does
    not take or that no row can hold.
    """
    told: list[str] = []
    found: dict[str, Asked] = {}
    copies = config.builder.copies
    builder = config.builder
    answered = builder.reads_answers(config.judge) if isinstance(builder, Builder) else copies
    of_answers = "rows" if config.builder.works_with == "exact" else "pictures or clips with prompts"
    what = of_answers if copies else "ones"
    if is_source(config.prompts):
        data = load(config.prompts, prompts=not answered)
        told = data.report.lines()
        for sample in data.samples:
            example = next(iter(sample.examples.values()))[0]
            original = example.response if answered else ()
            sides = _sides(config.builder, sample)
            key = digest(example.prompt, original, *([sides] if sides else []))
            found.setdefault(key, Asked(sample.id, example.prompt, original, sample.origin, sides))
    else:
        speaker: Literal["text", "user"] = "text" if kind == "surrogate" else "user"
        for asked in config.prompts.read():
            turns = (Message(speaker, (Part("text", asked.text),)),)
            found.setdefault(digest(turns), Asked(asked.id, turns))
    prompts = list(found.values())[: config.num_prompts]
    told.append(f"prompts: {len(prompts)} different {what}")
    for one in prompts:
        _check(one.id, one.turns, reads)
    return prompts, told


def _sides(builder: Builder | RowBuilder, sample: PreferenceSample) -> dict[str, tuple[Part, ...]]:
    """The answers of further roles that the builder reads, where they are to the first role's prompt."""
    if not isinstance(builder, RowBuilder) or not builder.copies:
        return {}
    asked = digest(next(iter(sample.examples.values()))[0].prompt)
    found = {role: sample.examples[role][0] for role in builder.sides if role in sample.examples}
    return {role: one.response for role, one in found.items() if digest(one.prompt) == asked}


def hash_of(prompts: list[Asked]) -> str:
    """What makes the prompts of two parts of a build the same."""
    return digest(
        [
            (
                one.id,
                one.turns,
                *([one.original] if one.original else []),
                *([one.sides] if one.sides else []),
            )
            for one in prompts
        ]
    )


def _check(name: str, turns: tuple[Message, ...], reads: frozenset[str]) -> None:
    kinds = {part.kind for turn in turns for part in turn.parts} - {"text"}
    if strange := sorted(kinds - reads):
        raise UserError(f"prompt {name!r}: holds {strange[0]}s, and the model reads none in its prompt")
    _media.refuse_unwritable(name, turns)
    _rows.refuse_unwritable(name, turns)
