"""Which pictures of a build look alike, by a two-tower model or by the tower of the model itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mmalign.builders._candidates import Asked
from mmalign.builders._whole_rows import Pool
from mmalign.data._digest import digest
from mmalign.rewards._encoders import Encoder
from mmalign.rewards._loading import Place, load_encoder, pick_device
from mmalign.rewards._pictures import pictures_of
from mmalign.types import Part

Embed = Callable[[Sequence[Part]], Tensor]
"""Vectors of length 1, [pictures, E], of decoded pictures."""

_AT_ONCE = 32


@dataclass(frozen=True)
class Towers:
    """A two-tower model as the rewards read one: a transformers CLIP folder or hub id; an open_clip folder or
    hf-hub:ID; or a file of weights of the open_clip model `architecture`."""

    # a transformers CLIP folder or hub id; an open_clip folder or hf-hub:ID; a file of open_clip weights
    path: str
    processor: str | None = None  # tokenizer and preprocessor of a transformers model, if not in its folder
    architecture: str | None = None  # open_clip's name of the model, where path is a file

    def load(self, where: str) -> Encoder:
        """The model. Raises UserError, starting with `where`, if it cannot be had."""
        return load_encoder(Place(where, self.path, self.processor, self.architecture), pick_device(None))


def by_towers(encoder: Encoder) -> Embed:
    """Vectors of the picture tower; one picture at a time, so that none depends on its neighbours."""

    @torch.no_grad()
    def embed(pictures: Sequence[Part]) -> Tensor:
        found = [encoder.pictures(list(pictures_of(part, "picture"))) for part in pictures]
        return torch.cat(found).cpu()

    return embed


@dataclass(frozen=True)
class Near:
    """A row that shows a picture, and the cosine of its vector with that which it was found for."""

    row: Asked
    cosine: float


class Index:
    """Every different picture that rows of the pool show alone, with its vector. Pictures are decoded once to
    be embedded and not kept; those that cannot be read are left out."""

    def __init__(self, pool: Pool, embed: Embed) -> None:
        self._pool, self._embed = pool, embed
        self._rows: list[Asked] = []
        self._places: dict[str, int] = {}
        vectors: list[Tensor] = []
        waiting: list[Part] = []
        for row in pool.rows:
            picture = self.picture(row)
            if picture is None or digest(picture) in self._places:
                continue
            self._places[digest(picture)] = len(self._rows)
            self._rows.append(row)
            waiting.append(picture)
            if len(waiting) == _AT_ONCE:
                vectors.append(embed(waiting))
                waiting = []
        vectors += [embed(waiting)] if waiting else []
        self._vectors = torch.cat(vectors) if vectors else torch.zeros(0, 0)

    def picture(self, row: Asked) -> Part | None:
        """The picture that a row of the pool shows, decoded; None where it shows none, several or a clip, or
        cannot be read."""
        if not shows_one_picture(row):
            return None
        ready = self._pool.decoded(row)
        return None if ready is None else picture_of(ready)

    def nearest(self, picture: Part, count: int, below: float | None = None) -> list[Near]:
        """At most so many rows whose pictures are likest to this one, the likest first and of equals in the
        order of the pool; a picture equal in every pixel is none of them, and with `below` neither is one
        whose cosine is that or more."""
        own = self._places.get(digest(picture))
        vector = self._embed([picture])[0] if own is None else self._vectors[own]
        if not self._rows:
            return []
        cosines = self._vectors @ vector
        order = torch.argsort(cosines, descending=True, stable=True).tolist()
        found = [Near(self._rows[at], float(cosines[at])) for at in order if at != own]
        return [near for near in found if below is None or near.cosine < below][:count]


def shows_one_picture(row: Asked) -> bool:
    """True for a row whose prompt shows one picture and no other medium."""
    return [part.kind for turn in row.turns for part in turn.parts if part.kind != "text"] == ["image"]


def picture_of(row: Asked) -> Part:
    """The picture of such a row."""
    return next(part for turn in row.turns for part in turn.parts if part.kind == "image")
