"""Yes or no: what an answer says, and what follows from counts of right and wrong ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mmalign.metrics._seam import Graded, Groups, Numbers, Sums, ratio

_CELLS = {("yes", "yes"): "tp", ("yes", "no"): "fp", ("no", "no"): "tn", ("no", "yes"): "fn"}


@dataclass(frozen=True)
class YesNoItem:
    """A question whose true answer is yes or no, about one picture or clip."""

    id: str
    label: str
    cluster: str = ""
    groups: Groups = field(default_factory=dict)


def first_sentence(answer: str) -> str:
    """POPE's rule: of the first sentence, "no" if one of its words is No, no or not, else "yes"."""
    said = answer.split(".")[0].replace(",", "").split()
    return "no" if {"No", "no", "not"} & set(said) else "yes"


def is_clear(answer: str) -> bool:
    """Whether the first sentence has a yes or a no at all; without one the rule above says yes."""
    said = {one.strip("!?;:\"'").lower() for one in answer.split(".")[0].replace(",", "").split()}
    return bool(said & {"yes", "no", "not"})


def grade_yes_no(items: Mapping[str, YesNoItem], answers: Mapping[str, str]) -> list[Graded]:
    """Cells of the table, yes being positive, of all items that were answered."""
    found = []
    for name, item in items.items():
        if name in answers:
            said = first_sentence(answers[name])
            counts = {_CELLS[said, item.label]: 1.0, "unclear": float(not is_clear(answers[name]))}
            shown = {"said": said, "label": item.label}
            found.append(Graded(name, counts, item.groups, item.cluster, shown))
    return found


def yes_no_values(sums: Sums) -> dict[str, Numbers]:
    """Accuracy, precision, recall and F1 (yes is positive), the share of answers taken for yes, and the share
    that has neither word."""
    tp, fp, tn, fn = (sums[cell] for cell in ("tp", "fp", "tn", "fn"))
    asked = tp + fp + tn + fn
    return {
        "acc": ratio(tp + tn, asked),
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
        "yes_ratio": ratio(tp + fp, asked),
        "unclear": ratio(sums["unclear"], asked),
    }
