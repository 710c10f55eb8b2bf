"""The options that every source shares, and what a source hands over."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mmalign.data._formats import LeftOut, columns_of, known_formats
from mmalign.data._pairing import PairRule
from mmalign.data._records import CANONICAL
from mmalign.types import UserError

# origin, and the row, or what is wrong with it, or why it is left out
Row = tuple[str, Mapping[str, Any] | UserError | LeftOut]


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Options common to all sources.

    Rows kept back by `heldout` keep their sides whatever `flip` says, so that they measure the true
    preference, and lists of responses stay whole there. A pair whose sides are swapped has its `margin` and
    `segments` with the other sign, while scores stay with their answers. `pairs` gives each
    pair the distance of its sides as label margin; pairs whose sides have scores are ordered by them anew.
    """

    format: str = "auto"  # form of the rows, a file of data/formats; auto tells it by the columns of each row
    # folder that media names are relative to and must stay inside; null: the data's own folder
    root: str | None = None
    split: str | None = None  # keep only rows whose `split` column has this value; null: all
    limit: int | None = None  # keep only so many rows, the first; null: all
    # rows kept back for evaluation, whole prompts by a hash: a share below 1, or a count
    heldout: int | float = 0
    on_error: Literal["stop", "skip"] = "stop"  # stop at the first broken row, or skip and list it
    # {canonical field, or column of the format: column of the file}; null leaves one out
    columns: dict[str, str | None] = field(default_factory=dict)
    # leave out pairs with equal sides, which carry no gradient, instead of only counting them
    drop_identical: bool = False
    ties: Literal["drop", "keep"] = "drop"  # leave out pairs labelled as ties, or keep them
    # share of training pairs whose sides are swapped, by a hash of the id; 0.5 is a shuffled control
    flip: float = 0.0
    pairs: PairRule | None = None  # how lists of scored responses become pairs; null: lists stay lists
    # share of labelled single responses in training that are positive; null: as they are
    positive_ratio: float | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: must be at least 1, got {self.limit}")
        if self.heldout < 0 or (isinstance(self.heldout, float) and self.heldout >= 1):
            raise ValueError(f"heldout: must be a count, or a share from 0 to below 1, got {self.heldout}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip: must lie in [0, 1], got {self.flip}")
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"on_error: must be stop or skip, got {self.on_error!r}")
        if self.ties not in ("drop", "keep"):
            raise ValueError(f"ties: must be drop or keep, got {self.ties!r}")
        if self.positive_ratio is not None and not 0 < self.positive_ratio < 1:
            raise ValueError(f"positive_ratio: must lie between 0 and 1, got {self.positive_ratio}")
        fields = columns_of(known_formats(self.format))
        for name in self.columns:
            if name not in fields:
                near = difflib.get_close_matches(name, sorted(fields), n=1)
                hint = f"did you mean {near[0]}? " if near else ""
                known = ", ".join(sorted(CANONICAL))  # a format's own are many more
                raise ValueError(
                    f"columns: {name!r} is no canonical field; {hint}known: {known}, and those of data.format"
                )

    @property
    def folder(self) -> str:
        """The folder that media names are relative to."""
        return self.root or "."

    @property
    def title(self) -> str:
        """What messages call the source where no row is at hand."""
        return "the source"
