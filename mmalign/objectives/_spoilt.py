"""Shared by objectives that score a pair and its chosen answer once more, under a spoilt picture."""

from __future__ import annotations

from collections.abc import Mapping

from mmalign.objectives._units import refuse_other_cut
from mmalign.types import Objective, Scores, View


class SpoiltPicture(Objective):
    """A subclass has a field `corruption`, one of the changes of media in `data/_views.py`."""

    corruption: str

    @property
    def view(self) -> str:
        """The role of the chosen answer under the spoilt picture."""
        return f"chosen_{self.corruption}"

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        """Both sources score the pair and the view."""
        scored = ("chosen", "rejected", self.view)
        return {"policy": scored, "reference": scored}

    @property
    def views(self) -> Mapping[str, View]:
        """The chosen answer with its prompt's pictures and clips changed."""
        return {self.view: View("chosen", self.corruption)}

    def refuse_other_cut(self, scores: Scores) -> None:
        """Raise UserError if the chosen answer was cut to another length under another row's picture."""
        if self.corruption == "other_image":
            seen = scores["policy"]
            refuse_other_cut(seen["chosen"], seen[self.view], "objective.corruption: other_image")
