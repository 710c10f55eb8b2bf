"""Object HalBench (arXiv 2312.00849): objects that detailed descriptions of 300 pictures make up."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from mmalign.metrics._coco import Photo, objects_in, photos
from mmalign.metrics._mentions import grade_mentions
from mmalign.metrics._reading import asked, check_paths, from_one, medium, rows_of, word
from mmalign.metrics._seam import Graded, Metric, Numbers, Question, Sums, ratio
from mmalign.types import Message, UserError

Extractor = Callable[[list[str]], list[list[str]]]
"""Descriptions -> the names of the objects that each of them says are there."""


@dataclass(frozen=True)
class ObjectHalbench(Metric):
    """response_rate, the share of descriptions with a made-up object among those that name any object;
    mention_rate, that of mentions; and recall.

    `questions`: lines with `image_id` and `question`; `instances` and `captions`: COCO's files of that name,
    by which an object is there if it was marked or named; `images`: the folder of the pictures. Objects are
    found by the words of CHAIR's kind of list; `extractor`, package.module:function, finds them instead: it
    is given descriptions and returns a list of names for each, of which those count that name a category.
    """

    costs: ClassVar[frozenset[str]] = frozenset({"response_rate", "mention_rate"})
    answer_fields: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = (("question_id",), ("answer", "text"))

    questions: str  # lines of JSON with `image_id` and `question`
    instances: str  # COCO's file of marked objects
    captions: str  # COCO's file of captions
    images: str  # folder of the pictures
    # package.module:function that finds objects in descriptions; null: by a list of names
    extractor: str | None = field(default=None, metadata={"imports": True})

    def __post_init__(self) -> None:
        check_paths(questions=self.questions, instances=self.instances, captions=self.captions)
        check_paths(images=self.images)
        module, _, name = (self.extractor or "a:b").partition(":")
        if not all(part.isidentifier() for part in (*module.split("."), name)):
            raise ValueError(f"extractor: must be package.module:function, got {self.extractor!r}")

    @property
    def notes(self) -> tuple[str, ...]:
        """Who found the objects: the benchmark lets a language model do it."""
        who = "mmalign's own list of names" if self.extractor is None else self.extractor
        return (f"objects are found by {who}; the published figures are a language model's",)

    def ready(self) -> None:
        """Import the extractor."""
        _ = self._extract

    @cached_property
    def _extract(self) -> Extractor:
        if self.extractor is None:
            return lambda texts: [[said for said, _ in objects_in(text)] for text in texts]
        module, _, name = self.extractor.partition(":")
        try:
            found: Extractor = getattr(importlib.import_module(module), name)
        except (ModuleNotFoundError, AttributeError) as error:
            raise UserError(f"object_halbench: extractor {self.extractor}: {error}") from error
        return found

    @cached_property
    def _rows(self) -> dict[str, tuple[tuple[Message, ...], Photo]]:
        known = photos(self.instances, self.captions)
        found: dict[str, tuple[tuple[Message, ...], Photo]] = {}
        for number, (where, row) in enumerate(rows_of(self.questions), 1):
            image = word(row, "image_id", where)
            if image not in known:
                raise UserError(f"{where}: {self.instances} has no picture {image}")
            turns = asked(medium("image", self.images, known[image].file), word(row, "question", where))
            found[str(number)] = turns, known[image]
        return found

    def ask(self) -> Sequence[Question]:
        """Every question; ids are the numbers of the rows."""
        return [Question(name, turns, "object_halbench") for name, (turns, _) in self._rows.items()]

    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """One item per description; those of one picture are drawn together."""
        given = {name: text for name, text in answers.items() if name in self._rows}
        listed = self._extract(list(given.values()))
        if len(listed) != len(given):
            raise UserError(
                f"object_halbench: the extractor gives {len(listed)} lists for {len(given)} texts"
            )
        found = []
        for name, names in zip(given, listed, strict=True):
            photo = self._rows[name][1]
            mentions = [mention for one in names for mention in objects_in(one)]
            found.append(grade_mentions(name, mentions, photo.objects, cluster=photo.id))
        return found

    def values(self, sums: Sums) -> dict[str, Numbers]:
        """response_rate, mention_rate and recall."""
        return {
            "response_rate": ratio(sums["hallucinates"], sums["naming"]),
            "mention_rate": ratio(sums["wrong"], sums["mentions"]),
            "recall": ratio(sums["named"], sums["there"]),
        }

    def predictions(self, path: Path) -> dict[str, str]:
        """Answers by the numbers of the rows, or by image_id where every picture is asked about once. Raises
        UserError where ids may be either and mean other rows."""
        given = super().predictions(path)
        by_image = {photo.id: name for name, (_, photo) in self._rows.items()}
        numbers, images = given.keys() & self._rows.keys(), given.keys() & by_image.keys()
        unique = len(by_image) == len(self._rows)
        if not unique or not images - numbers:
            if unique and numbers == images and any(by_image[one] != one for one in images):
                raise UserError(
                    f"{path}: ids such as {min(images)!r} are numbers of rows and also image_ids; give more "
                    "answers, so that it can be told which they are"
                )
            return from_one(given, self._rows, path)
        if only := sorted(numbers - images):
            raise UserError(
                f"{path}: id {only[0]!r} is the number of a row and others are image_ids; give one kind of id"
            )
        return {by_image.get(name, name): text for name, text in given.items()}
