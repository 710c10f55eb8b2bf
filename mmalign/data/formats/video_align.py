"""VideoAlign rows (VideoReward, arXiv 2501.13918): two clips, and which is better by several aspects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmalign.data._formats import Converted, Format, LeftOut
from mmalign.data._pairing import PairRule
from mmalign.data._records import LABELS
from mmalign.data._turns import Reader

_CLIPS = ("path_A", "path_B")
_ASPECTS = ("VQ", "MQ", "TA")
_VOTES = {"A": (1.0, 0.0), "B": (0.0, 1.0), "same": (0.5, 0.5)}


@dataclass(frozen=True)
class VideoAlign(Format):
    """`path_A`, `path_B`, `prompt` and votes A, B or same by visual quality `VQ`, motion quality `MQ`, text
    alignment `TA` and `Overall`, as far as given.

    Without `data.pairs`, `Overall` decides where the row has it, else the majority of the aspects; with it,
    for example `by: [TA]`, or `by: [VQ, MQ, TA]` and `policy: veto`. A row without any vote is left out. The
    clips' own rate and length count, not those that the row states.
    """

    columns = LABELS | {"prompt", "Overall", *_CLIPS, *_ASPECTS}

    def signs(self, row: Mapping[str, Any]) -> tuple[str, ...]:
        """The clips and the votes."""
        votes = tuple(name for name in (*_ASPECTS, "Overall") if name in row)
        return (*_CLIPS, *votes) if votes and "prompt" in row and all(name in row for name in _CLIPS) else ()

    def convert(self, row: Mapping[str, Any], reader: Reader) -> Converted | LeftOut:
        """The clips as a list of two, with 1, 0 or 1/2 for a vote."""
        reader.text(row.get("prompt"), "prompt")
        for name in _CLIPS:
            reader.media(row.get(name), "video", name)
        votes: dict[str, tuple[float, float]] = {}
        for name in (*_ASPECTS, "Overall"):
            if row.get(name) in (None, ""):
                continue
            if not isinstance(row[name], str) or row[name] not in _VOTES:
                raise reader.fail(name, f"must be A, B or same, got {row[name]!r}")
            votes[name] = _VOTES[row[name]]
        if not votes:
            return LeftOut("without a vote")
        made = {key: row[key] for key in LABELS if row.get(key) is not None}
        made |= {
            "prompt": row["prompt"],
            "responses": [{"video": row[name]} for name in _CLIPS],
            "scores": [{name: vote[side] for name, vote in votes.items()} for side in (0, 1)],
        }
        by = ("Overall",) if "Overall" in votes else tuple(votes)
        rule = PairRule(by=by, policy="majority" if len(by) > 1 else "mean")
        return Converted(made, {"responses": "path_A", "scores": by[0]}, pairs=rule)
