"""The early sign of a collapsing denoiser: errors that rise against the reference, the winner's too.

A preference loss only asks that the winner's error rise less than the loser's. Where both rise the model gets
worse at every picture while its accuracy grows (arXiv 2511.03317). A reference that follows the policy rises
with it, and the gap to it stays small: then the errors are compared with those at the start of the run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SURE = 2.0
"""So many standard errors above 0 a rise must lie to be told from chance."""

BOTH, WINNER = "both", "winner"


@dataclass(frozen=True)
class Gap:
    """Mean rise of the winner's and the loser's error at one evaluation, with their standard errors over
    pairs, and the error of winners that it is a rise of: the reference's, or `since_start` the policy's own
    at the start of the run."""

    step: int
    winner: float
    loser: float
    winner_se: float
    loser_se: float
    reference: float
    since_start: bool = False

    @staticmethod
    def of(step: int, values: Mapping[str, float]) -> Gap | None:
        """From one evaluation at fixed noise levels, its names without "heldout/"; None if it has no gap."""
        moving = "level/rise_w" in values
        winner, loser, base = ("rise_w", "rise_l", "start_err_w") if moving else ("Dw", "Dl", "ref_err_w")
        plain = (winner, loser, f"{winner}/std", f"{loser}/std", base, "pairs")
        return Gap._of(step, [values.get(f"level/{name}") for name in plain], moving)

    @staticmethod
    def _of(step: int, found: Sequence[float | None], since_start: bool) -> Gap | None:
        if any(value is None or not math.isfinite(value) for value in found):
            return None
        winner, loser, winner_std, loser_std, reference, pairs = (float(value or 0.0) for value in found)
        root = math.sqrt(max(1.0, pairs))
        return Gap(step, winner, loser, winner_std / root, loser_std / root, reference, since_start)

    @property
    def winner_up(self) -> bool:
        """The winner's error lies above what it is compared with, more than by chance."""
        return self.winner > SURE * self.winner_se

    @property
    def loser_up(self) -> bool:
        """The same of the loser's."""
        return self.loser > SURE * self.loser_se

    @property
    def both(self) -> str:
        """The sign BOTH in words."""
        return "both errors rise against " + ("the start" if self.since_start else "the reference")

    @property
    def base(self) -> str:
        """What the winner's error is compared with, in words."""
        return "its own at the start" if self.since_start else "the reference's"

    @property
    def words(self) -> str:
        """Both rises, the winner's also as a share of the error that it is a rise of."""
        share = f" ({self.winner / self.reference:+.2%})" if self.reference > 0 else ""
        return f"winner's error {self.winner:+.3g}{share}, loser's {self.loser:+.3g}"


def signs(gaps: Sequence[Gap]) -> frozenset[str]:
    """What the last evaluation of a run shows. BOTH: both errors are up, and further up than at the one
    before. WINNER: the winner's error is up for the second evaluation in a row."""
    found = set()
    if len(gaps) > 1:
        before, last = gaps[-2:]
        if last.winner_up and last.loser_up and last.winner > before.winner and last.loser > before.loser:
            found.add(BOTH)
        if last.winner_up and before.winner_up:
            found.add(WINNER)
    return frozenset(found)


@dataclass
class Watch:
    """Follows the evaluations of a run and says once when a sign begins."""

    gaps: list[Gap] = field(default_factory=list)
    known: set[str] = field(default_factory=set)

    def see(self, step: int, values: Mapping[str, float]) -> list[str]:
        """Lines about signs that begin with this evaluation, whose names start with "heldout/"."""
        plain = {name.removeprefix("heldout/"): value for name, value in values.items()}
        gap = Gap.of(step, plain)
        if gap is None:
            return []
        self.gaps.append(gap)
        fresh = sorted(signs(self.gaps) - self.known)
        self.known |= set(fresh)
        said = {BOTH: gap.both, WINNER: f"the winner's error stays above {gap.base}"}
        return [f"held-out noise levels, step {step}: {said[sign]}: {gap.words}" for sign in fresh]

    def replay(self, path: Path, step: int) -> None:
        """See the evaluations up to `step` of an earlier part of the run again, from its metrics.jsonl."""
        for line in path.read_bytes().splitlines() if path.exists() else ():
            values = json.loads(line)
            if values["step"] <= step:
                self.see(values["step"], {k: v for k, v in values.items() if isinstance(v, int | float)})
