"""Which curves go together: one chart per family of metrics, train and held-out on the same axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmalign.report.html import Html
from mmalign.report.levels import PREFIX
from mmalign.report.plot import Axis, Line, figure
from mmalign.report.series import Metrics

_MOST_LABELS = 6  # of one chart: as many as there are colours

_KNOWN: dict[str, tuple[str, str]] = {
    "loss": ("Loss", "of the objective, mean over samples"),
    "implicit_acc": (
        "Implicit accuracy",
        "share of pairs whose chosen side has the larger reward, ties one half",
    ),
    "accuracy": ("Accuracy", "share of pairs whose chosen side has the larger reward, ties count as wrong"),
    "reward/margin": ("Reward margin", "implicit reward of chosen minus rejected"),
    "reward": ("Implicit reward", "beta times the log-ratio to the reference, by role"),
    "seeing": (
        "Margin with and without the picture",
        "log-likelihood of chosen minus rejected; image_share is the part that goes with pictures and clips",
    ),
    "seeing_ranking": (
        "Ranking with and without the picture",
        "share of pairs whose chosen side is the likelier one, with and without pictures and clips",
    ),
    "image_margin": ("Picture margin", "reward of chosen under its own picture minus under the spoilt one"),
    "image_accuracy": ("Picture accuracy", "share of rows with a picture margin above 0"),
    "anchor_accuracy": ("Anchor", "share of rows whose chosen reward is above delta"),
    "chosen_falling": ("Chosen falling", "share of chosen responses less likely than under the reference"),
    "logp_change": ("Change of log-likelihood", "against the reference, by role"),
    "error": ("Denoising error", "mean squared error of policy and reference, by role"),
    "rise": (
        "Rise of the error",
        "above the reference's on the same noise, of the winner (Dw) and the loser (Dl)",
    ),
    "z": ("Logit", "the reward margin inside the objective: mean and deviation over pairs"),
    "grad_weight": ("Gradient weight", "sigmoid(\u2212z), the share of a pair's gradient that is left"),
    "logp": ("Log-likelihood", "of whole responses, by role"),
    "length": ("Length", "scored units of a response, by role"),
    "implicit_acc by noise": ("Accuracy by noise level", "quarters of the schedule, t1 has the least noise"),
    "grad_norm": ("Gradient norm", "before clipping"),
    "lr": ("Learning rate", "as the schedule gave it"),
}
_SHARES = (  # drawn on 0..1
    "implicit_acc",
    "accuracy",
    "chosen_falling",
    "implicit_acc by noise",
    "seeing_ranking",
    "image_accuracy",
    "anchor_accuracy",
)
_TOGETHER = {
    "Dw": "rise",
    "Dl": "rise",
    "margin_with_image": "seeing",
    "margin_without_image": "seeing",
    "image_share": "seeing",
    "ranking_with_image": "seeing_ranking",
    "ranking_without_image": "seeing_ranking",
}


@dataclass(frozen=True)
class Chart:
    """Lines on common axes."""

    name: str
    lines: tuple[Line, ...]


def charts(metrics: Metrics) -> list[Chart]:
    """Every curve of a run but those at fixed noise levels, sorted into charts: the known families first, any
    other metric after them."""
    families: dict[str, list[str]] = {}
    for name in (name for name in metrics.names if not name.startswith(PREFIX)):
        families.setdefault(_family(name), []).append(name)
    known = [family for family in _KNOWN if family in families]
    found = []
    for family in [*known, *(family for family in sorted(families) if family not in _KNOWN)]:
        names = families[family]
        for start in range(0, len(names), _MOST_LABELS):
            title = family if start == 0 else f"{family} ({start // _MOST_LABELS + 1})"
            found.append(Chart(title, tuple(_lines(metrics, names[start : start + _MOST_LABELS]))))
    return found


def draw(chart: Chart, last_step: float) -> Html:
    """One chart as a figure: heading, SVG whose x axis runs from 0 to `last_step`, and legend."""
    title, words = _KNOWN.get(chart.name, (chart.name, ""))
    return figure(title, words, chart.lines, Axis("step", max(1, last_step)), chart.name in _SHARES)


# ---------------------------------------------------------------- which lines go together


def _family(name: str) -> str:
    head, slash, rest = name.partition("/")
    if not slash or name == "reward/margin":
        return _TOGETHER.get(name, name)
    if head == "implicit_acc" and rest[:1] == "t":
        return "implicit_acc by noise"
    return "error" if head == "reference_error" else head


def _lines(metrics: Metrics, names: Sequence[str]) -> list[Line]:
    lines = []
    for place, name in enumerate(names):
        head, slash, rest = name.partition("/")
        label = "" if len(names) == 1 else rest or name
        if head == "reference_error" and slash:
            label = f"reference, {rest}"
        for heldout, group in ((False, metrics.train), (True, metrics.heldout)):
            if name in group:
                words = [label, "held-out" if heldout else "" if label else "training"]
                colour = int(heldout) if not label else place
                lines.append(Line(", ".join(word for word in words if word), group[name], heldout, colour))
    return lines
