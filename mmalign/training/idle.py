"""A run that learns nothing from its first lines on, told at once with the field that is the likely cause."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmalign.config import RunConfig

LINES = 10
"""So many lines of the log must be 0, or all of a shorter run."""
_WATCHED = ("steps_kept", "loss", "grad_norm")  # the first that stays 0 explains the others


@dataclass
class Idle:
    """Watches the first lines of a run, or of a resumed part of it, for figures that are exactly 0 in all."""

    config: RunConfig
    lines: int = 0
    still: set[str] = field(default_factory=lambda: set(_WATCHED))

    def see(self, values: Mapping[str, float], last: bool = False) -> str | None:
        """Take a line of the log in; once, after `LINES` of them or at the `last`, the warning if there is
        one."""
        if self.lines >= LINES or not values:
            return None
        self.lines += 1
        self.still = {name for name in self.still if values.get(name) == 0}
        if self.lines < LINES and not last:
            return None
        if "grad_norm" not in self.still:  # a loss of 0 alone, a sum of advantages say, has its gradient
            self.still.discard("loss")
        first = next((name for name in _WATCHED if name in self.still), None)
        return None if first is None else self._told(first)

    def _told(self, name: str) -> str:
        words = {"steps_kept": "steps_kept", "loss": "the loss", "grad_norm": "the gradient norm"}[name]
        head = f"{words} is exactly 0 in all {self.lines} lines since the run began: nothing is learned; "
        return head + self._cause(name)

    def _cause(self, name: str) -> str:
        objective, online = self.config.objective, self.config.online
        if name == "steps_kept":
            threshold = getattr(objective, "threshold", None)  # few objectives have one
            told = "" if threshold is None else f" ({threshold:g})"
            return f"no step's judged preference is above objective.threshold{told}; lower it"
        if online is not None and not online.data_alone:
            return "look at online.judge: it may score all answers to a prompt alike"
        if name == "loss":
            return "look at the objective's margin and beta: every row may already meet what it asks for"
        return "look at lora.targets and train.precision: what trains may not reach the loss"
