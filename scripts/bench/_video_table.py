"""Tables and page of shapes_video.py."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from _intervals import Range, Rows, interval, points
from _video_runs import ARMS, BASE, BUILT_IN, Arm

Cell = Mapping[str, Any]
CONDITIONS = ("shuffled", "reversed", "frozen")
TOPICS = ("relay", "motion", "late", "count", "caption")
GUARDS = {"late": "late", "late neither": "late, names neither", "count": "count", "caption": "captions"}
COMPARED = (
    ("mdpo, reversed", "dpo"),
    ("mdpo, reversed", "mdpo, crop"),
    ("tpo", "dpo"),
    ("dpo, reversed pairs", "dpo"),
    ("dpo", "sft"),
    ("mdpo, reversed", "sft"),
    ("dpo", "dpo, frames shuffled"),
    ("mdpo, reversed", "mdpo, frames shuffled"),
    ("dpo", "dpo, labels shuffled"),
)
"""Runs whose figures are set against each other."""
SHOWN = ("relay", "arrow of motion")
ABOUT = """\
# Objectives on a built-in model of clips

Do objectives on pairs about time make a model of clips see time? A clip has four frames. In a *relay* one
thing is shown in the first two and another in the last two, and the question is which comes first: no single
frame and no set of frames tells, only their order. With shuffled frames right and wrong answers are equally
likely, and reversed frames turn the answer round.

The built-in model sees what comes first: where it errs, it mostly names neither of the two things (below),
which is no matter of order. So the base of this table is that model with one habit more, taught in 110
supervised steps: asked which of two things comes first, it names the one that the question names first, for
four kinds of things in five. The habits about which way things move are those of the built-in model.

Every run trains the same 116,736 LoRA weights (rank 16) for 80 steps on 480 pairs, half about relays, half
about motion, from training scenes:

- *own*: several answers of the base, sampled at temperature 1, sorted by an exact judge into a right and a
  wrong one; a question without both gives no pair. That is LLaVA-Hound's recipe (2404.01258), so that "dpo"
  is LLaVA-Hound-DPO with an exact judge.
- *tpo*: the answer to the frames that matter against the answer without them (a relay's first half, or the
  whole clip against a single frame), both by the base; where they agree, or the rejected one is right, there
  is no pair (2501.13919). Its objective is dpo + 0.1 sft.
- *reversed*: the base's answer to the clip against its answer to the clip in reverse, where they differ; no
  one judges.
- *world*: what is true of the clip against what is true of its reversal; no model answers.

Controls: "labels shuffled" swaps half of the pairs; "frames shuffled" trains on clips whose frames have a
random order; all models are asked with the frames shuffled (orders that come with their reversals, without
the right one and its reversal), reversed, and with the last frame four times (frozen). Base and tuned models
answer the same questions about 200 held-out clips per topic, greedily. Brackets are 95 % bootstrap intervals
over questions and, where there are several, seeds (single seeds in parentheses). *Arrow*: share of right
answers minus share of those that would be right if time ran backwards, on things that move; it is 0 where a
model cannot tell which way time runs. *Late*: which comes first, where one thing is there from the start and
the other from the third frame on, a question that no run trained on. Seconds are of one run's training on
the processor.

How far this goes:

- The gain comes from the order of the frames: shuffle them while asking, and none of it is left, in questions
  on order or on which of two opposite ways a thing moves. Reversed frames get the answers that are true of
  the reversed clip. This holds for every objective, sft included.
- In shapes_quality.md half of the gain in motion outlived shuffled frames. That was things that stand still:
  of those the habit is dropped in any order of the frames. Of things that move nothing outlives it.
- Training on shuffled frames takes less than half of the gain away. Such pairs cannot teach what comes
  first, yet they teach not to answer by habit, and the base has not forgotten how to look.
- mdpo on reversed frames is ahead of mdpo on crops (one seed), and not ahead of dpo: level on order, a little
  behind on motion, at 1.4 times the cost.
- tpo is level with dpo on order or a little ahead, and behind on motion: where the base answers by habit from
  both views there is no pair, so that habits of motion are seldom among the rejected answers. A seventh of
  its chosen answers are wrong.
- Pairs of the clip against its reversal, which no one judged, give half of the gain; a sixth of their chosen
  answers are wrong. Pairs made of the world's two truths reject no habit and give less in motion than own
  answers do.
- Over both questions no objective on own pairs at sft's rate is ahead of sft: the chosen answers are the
  truth.
- Captions, which are in no pair, lose 2 to 5 points; at a rate of 0.0005, where dpo and mdpo were not taken,
  a third of them (table of rates), and so does tpo's objective on own pairs, which had tpo's rate.
- Rates were tried for dpo, mdpo, tpo and sft, at 0.001 not for sft; all others take dpo's.
  One base; betas untouched.
"""


def values(cell: Cell, name: str) -> list[float]:
    """A figure, question by question.

    "arrow of X" is 1 for a right answer of X, -1 for the one that would be right if time ran backwards; on
    questions whose answer the direction of time does not change it is 0. "X moving" has the questions on
    things that move alone.
    """
    if name.startswith("arrow of "):
        plain = name.removeprefix("arrow of ")
        return [a - b for a, b in zip(values(cell, plain), values(cell, f"{plain}, opposite"), strict=True)]
    return [float(mark) for mark in cell[name]]


def moving(cell: Cell, name: str) -> list[float]:
    """A figure of the motion questions on things that move."""
    return [v for v, moves in zip(values(cell, name), cell["motion moves"], strict=True) if moves == "1"]


class Table:
    """The finished runs of one split beside their base."""

    def __init__(self, cells: Sequence[Cell], split: str = "heldout") -> None:
        own = [c for c in cells if c["split"] == split]
        self.base = next((c for c in own if c["run"] == BASE), None)
        self.built_in = next((c for c in own if c["run"] == BUILT_IN), None)
        self.runs: dict[str, list[Cell]] = {}
        for cell in sorted(own, key=lambda c: int(c["seed"])):
            if "steps" in cell:
                self.runs.setdefault(str(cell["run"]), []).append(cell)

    def rows(self, arm: str, read: Callable[[Cell], list[float]]) -> Rows:
        """A figure of an arm's runs, by seed."""
        return [read(cell) for cell in self.runs[arm]]

    def before(self, arm: str, read: Callable[[Cell], list[float]]) -> Rows:
        """The base's figure as often as the arm has runs."""
        assert self.base is not None
        return [read(self.base)] * len(self.runs[arm])

    def change(self, arm: str, read: Callable[[Cell], list[float]]) -> Range:
        """Change from the base, in points."""
        return interval(_minus(self.rows(arm, read), self.before(arm, read)))


def still(cell: Cell, name: str) -> list[float]:
    """A figure of the motion questions on things that stay where they are."""
    return [v for v, moves in zip(values(cell, name), cell["motion moves"], strict=True) if moves == "0"]


def _minus(ours: Rows, theirs: Rows) -> list[list[float]]:
    return [
        [100 * (a - b) for a, b in zip(mine, other, strict=True)]
        for mine, other in zip(ours, theirs, strict=True)
    ]


def _reader(name: str) -> Callable[[Cell], list[float]]:
    if name.startswith("still: "):
        return lambda cell: still(cell, name.removeprefix("still: "))
    if "motion" in name and name != "motion" and "habit" not in name:
        return lambda cell: moving(cell, name)
    return lambda cell: values(cell, name)


def _figure(table: Table, arm: str, name: str) -> str:
    read = _reader(name)
    after = table.rows(arm, read)
    seeds = "/".join(f"{100 * statistics.fmean(row):.0f}" for row in after)
    middle = 100 * statistics.fmean(v for row in after for v in row)
    several = f" ({seeds})" if len(after) > 1 else ""
    return f"{middle:.1f}{several}, {points(table.change(arm, read))}"


def _lines(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _share(cell: Cell, name: str) -> str:
    found = _reader(name)(cell)
    return f"{100 * statistics.fmean(found):.1f}"


def _table_of(table: Table, arms: Sequence[Arm], names: Mapping[str, str]) -> str:
    if table.base is None:
        return ""
    untrained = [(BUILT_IN, table.built_in), (BASE, table.base)]
    rows = [[title, *(_share(cell, name) for name in names)] for title, cell in untrained if cell]
    for arm in arms:
        if arm.name in table.runs:
            rows.append([arm.name, *(_figure(table, arm.name, name) for name in names)])
    return _lines(["run", *names.values()], rows)


def order_table(table: Table, arms: Sequence[Arm] = ARMS) -> str:
    """Questions on order, with the frames in order and disturbed."""
    names = {"relay": "right"} | {f"relay {c}": f"right, frames {c}" for c in CONDITIONS}
    return _table_of(table, arms, names)


def motion_table(table: Table, arms: Sequence[Arm] = ARMS) -> str:
    """Questions on motion; the arrow counts an answer in the opposite direction as minus one."""
    names = {
        "motion": "right",
        "motion habit": "wrong by habit",
        "arrow of motion": "arrow",
        "arrow of motion shuffled": "arrow, frames shuffled",
        "motion shuffled": "moving things, right, frames shuffled",
        "still: motion shuffled": "still things, right, frames shuffled",
        "arrow of motion reversed": "arrow, frames reversed",
    }
    return _table_of(table, arms, names)


def guard_table(table: Table, arms: Sequence[Arm] = ARMS) -> str:
    """What was not, or hardly, trained on."""
    return _table_of(table, arms, GUARDS)


def needs_order_table(table: Table, arms: Sequence[Arm] = ARMS) -> str:
    """How much of the gain is lost when the frames are shuffled as the question is asked."""
    rows = []
    for arm in arms:
        if arm.name not in table.runs:
            continue
        fields = [arm.name, arm.pairs]
        for plain in SHOWN:
            gains = [
                _minus(table.rows(arm.name, _reader(name)), table.before(arm.name, _reader(name)))
                for name in (plain, f"{plain} shuffled")
            ]
            lost = [[a - b for a, b in zip(x, y, strict=True)] for x, y in zip(*gains, strict=True)]
            fields += [points(interval(gain)) for gain in gains] + [points(interval(lost))]
        rows.append([*fields, f"{statistics.fmean(c['cpu_seconds'] for c in table.runs[arm.name]):.0f}"])
    head = ["run", "pairs", "order: gain", "gain, shuffled", "difference"]
    return _lines([*head, "motion arrow: gain", "gain, shuffled", "difference", "seconds"], rows)


def differences_table(table: Table) -> str:
    """One run against another, of the seeds that both have."""
    rows = []
    for ours, theirs in COMPARED:
        if ours in table.runs and theirs in table.runs:
            count = min(len(table.runs[name]) for name in (ours, theirs))
            fields = [f"{ours} against {theirs}"]
            for name in ("relay", "motion", "arrow of motion", "caption"):
                sides = [table.rows(arm, _reader(name))[:count] for arm in (ours, theirs)]
                fields.append(points(interval(_minus(*sides))))
            rows.append(fields)
    return _lines(["runs", "order", "motion", "motion arrow", "captions"], rows)


def pairs_table(cells: Sequence[Cell]) -> str:
    """What the making of pairs took, and how often the chosen answer is right."""
    rows = []
    for cell in cells:
        name = str(cell["run"])
        if name.startswith("pairs: "):
            right = f"{cell['chosen right'] / cell['pairs']:.1%}"
            rows.append([name.removeprefix("pairs: "), str(cell["questions"]), str(cell["pairs"]), right])
    return _lines(["pairs", "questions asked", "pairs", "chosen right"], rows)


def brief(cells: Sequence[Cell], name: str, seed: int) -> str:
    """Right answers of one run, in a line."""
    cell = next(c for c in cells if (c["split"], c["run"], c["seed"]) == ("heldout", name, seed))
    return f"{name}, seed {seed}: " + ", ".join(f"{topic} {_share(cell, topic)}" for topic in TOPICS)


def selection(cells: Sequence[Cell]) -> str:
    """Right answers to all topics, and to each, for every rate tried on validation scenes."""
    own = [c for c in cells if c["split"] == "validation"]
    rows = []
    for cell in sorted(own, key=lambda c: (str(c["run"]), c["lr"] or 0)):
        shares = [100 * statistics.fmean(values(cell, topic)) for topic in TOPICS]
        rate = "" if cell["lr"] is None else f"{cell['lr']:g}"
        figures = [statistics.fmean(shares), *shares]
        rows.append([str(cell["run"]), rate, *(f"{share:.1f}" for share in figures)])
    return _lines(["run", "lr", "mean", *TOPICS], rows)


# ---------------------------------------------------------------- the page


def tables(cells: Sequence[Cell]) -> str:
    """All tables of held-out clips."""
    table = Table(cells)
    parts = {
        "What the order of the frames gives": needs_order_table(table),
        "Questions on order": order_table(table),
        "Questions on motion": motion_table(table),
        "What must not be lost": guard_table(table),
        "One run against another, in points": differences_table(table),
    }
    return "\n\n".join(f"### {title}\n\n{text}" for title, text in parts.items())


def page(cells: Sequence[Cell], used: str) -> str:
    """The whole page."""
    parts = [ABOUT, f"Made by `scripts/bench/shapes_video.py` on one CPU thread with {used}."]
    parts += ["## Held-out clips", tables(cells), "## Pairs", pairs_table(cells)]
    return (
        "\n\n".join([*parts, "## Learning rates, on 64 validation clips, one seed", selection(cells)]) + "\n"
    )
