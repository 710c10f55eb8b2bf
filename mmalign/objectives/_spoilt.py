"""Shared by objectives that score a pair and its chosen answer once more, under a spoilt picture."""

from __future__ import annotations

from collections.abc import Mapping

from mmalign.types import Objective, View


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
