"""CHAIR (arXiv 1809.02156): objects that captions name and COCO's annotations do not have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from mmalign.metrics._coco import Photo, objects_in, photos
from mmalign.metrics._mentions import chair_values, grade_mentions
from mmalign.metrics._reading import asked, check_paths, json_of, medium
from mmalign.metrics._seam import Graded, Metric, Numbers, Question, Sums
from mmalign.types import UserError


@dataclass(frozen=True)
class Chair(Metric):
    """chair_i, the share of object mentions that are wrong; chair_s, that of captions with a wrong one; and
    recall, that of the objects there which are named.

    `instances` and `captions`: COCO's files of that name; what one of the captions names is there, too (null:
    marked objects alone, which are fewer). `images`: the folder of the pictures. `ids`: a JSON list of the
    ids of the pictures to ask about (null: all). An object is named by the words of a list of common names,
    in singular or plural: "orange" the colour counts as the fruit, as in the original.
    """

    costs: ClassVar[frozenset[str]] = frozenset({"chair_i", "chair_s"})
    answer_fields: ClassVar[tuple[tuple[str, ...], tuple[str, ...]]] = (("image_id",), ("caption",))

    instances: str  # COCO's file of marked objects
    images: str  # folder of the pictures
    # COCO's file of captions, whose objects are there, too; null: marked ones alone
    captions: str | None = None
    ids: str | None = None  # JSON list of the pictures' ids to ask about; null: all
    prompt: str = "Please describe this image in detail."  # what is asked

    def __post_init__(self) -> None:
        check_paths(instances=self.instances, images=self.images, captions=self.captions, ids=self.ids)
        if not self.prompt.strip():
            raise ValueError("prompt: must say something")

    @property
    def notes(self) -> tuple[str, ...]:
        """Whose words these are."""
        return ("objects are found by mmalign's own list of names; other lists give slightly other figures",)

    @cached_property
    def _photos(self) -> dict[str, Photo]:
        found = photos(self.instances, self.captions)
        if self.ids is None:
            return found
        listed = json_of(Path(self.ids).expanduser())
        if not isinstance(listed, list) or not listed:
            raise UserError(f"{self.ids}: must be a JSON list of picture ids")
        for name in listed:
            if str(name) not in found:
                raise UserError(f"{self.ids}: {self.instances} has no picture {name}")
        return {str(name): found[str(name)] for name in listed}

    def ask(self) -> Sequence[Question]:
        """The prompt under every picture."""
        return [
            Question(name, asked(medium("image", self.images, photo.file), self.prompt), "chair")
            for name, photo in self._photos.items()
        ]

    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """One item per caption."""
        return [
            grade_mentions(name, objects_in(answers[name]), photo.objects)
            for name, photo in self._photos.items()
            if name in answers
        ]

    def values(self, sums: Sums) -> dict[str, Numbers]:
        """chair_i, chair_s and recall."""
        return chair_values(sums)
