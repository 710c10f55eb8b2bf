"""What was measured: a metric's values of one or two models, kept in evaluation/metrics/NAME/results.json."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmalign.metrics._resampling import Figure, differences, figures
from mmalign.metrics._seam import Graded, Metric
from mmalign.types import UserError

FORMAT = 1
FOLDER = "metrics"


@dataclass(frozen=True)
class Block:
    """Values of all items, or of one group of them: for every side its own, and tuned minus base."""

    kind: str
    group: str
    num: int
    sides: Mapping[str, Mapping[str, Figure]]
    difference: Mapping[str, Figure]


@dataclass(frozen=True)
class Measured:
    """A metric's figures. `sides` are "base" and "tuned", or "answers" of one prediction file; the first of
    the `blocks` is of all items. `step` is that of the tuned model's weights, where known; `answered` is how
    both models answered (JSON values: temperature, top_p, max_new_tokens, stop, seed), None for answers of
    files and of adapters that do not tell."""

    name: str
    words: str
    unchecked: bool
    notes: tuple[str, ...]
    costs: tuple[str, ...]
    blocks: tuple[Block, ...]
    step: int | None = None
    answered: Mapping[str, Any] | None = None

    @property
    def manner(self) -> str:
        """How both models answered, in words; empty where that is not known."""
        if self.answered is None:
            return ""
        drawn = f"sampled at temperature {self.answered['temperature']:g}"
        if self.answered["top_p"] < 1:
            drawn += f" from the likeliest {self.answered['top_p']:g}"
        how = f"{drawn}, seed {self.answered['seed']}" if self.answered["temperature"] else "greedy"
        return f"answers: {how}, at most {self.answered['max_new_tokens']} tokens"

    @property
    def whole(self) -> Block:
        """The values of all items."""
        return self.blocks[0]

    @property
    def sides(self) -> list[str]:
        """Whose answers were graded."""
        return list(self.whole.sides)


def items(num: int) -> str:
    """So many items, in words."""
    return "1 item" if num == 1 else f"{num} items"


def measured(
    metric: Metric,
    name: str,
    graded: Mapping[str, Sequence[Graded]],
    notes: Sequence[str] = (),
    step: int | None = None,
    answered: Mapping[str, Any] | None = None,
) -> Measured:
    """All figures of the graded items of every side, in the order of groups as they first occur."""
    if not any(graded.values()):
        raise UserError(f"{name}: no question was answered; nothing can be measured")
    blocks = [_block(metric, "", "", graded)]
    groups = [
        (k, g)
        for side in graded.values()
        for item in side
        for k, listed in item.groups.items()
        for g in listed
    ]
    for kind, group in sorted(dict.fromkeys(groups), key=lambda one: [k for k, _ in groups].index(one[0])):
        inside = {s: [i for i in items if group in i.groups.get(kind, ())] for s, items in graded.items()}
        blocks.append(_block(metric, kind, group, inside))
    remarks = [f"{side}: {line}" for side, items in graded.items() for line in metric.remarks(items)]
    said = " ".join((inspect.getdoc(type(metric)) or "").split("\n\n")[0].split())
    return Measured(
        name,
        said,
        metric.is_unchecked,
        (*metric.notes, *notes, *remarks),
        tuple(sorted(metric.less_is_better)),
        tuple(blocks),
        step,
        answered,
    )


def _block(metric: Metric, kind: str, group: str, graded: Mapping[str, Sequence[Graded]]) -> Block:
    sides = {side: figures(metric, items) for side, items in graded.items()}
    paired = (
        differences(metric, graded["base"], graded["tuned"]) if {"base", "tuned"} <= graded.keys() else {}
    )
    num = max(sum(item.asked for item in items) for items in graded.values())
    return Block(kind, group, num, sides, paired)


def write(folder: Path, found: Measured, graded: Mapping[str, Sequence[Graded]]) -> Path:
    """Write the figures, and per-item rows of every side beside them (JSON lines); returns the first file."""
    place = folder / "evaluation" / FOLDER / found.name
    place.mkdir(parents=True, exist_ok=True)
    for side, items in graded.items():
        rows = [json.dumps(_row(item), ensure_ascii=False, allow_nan=False) + "\n" for item in items]
        _replace(place / f"items.{side}.jsonl", "".join(rows))
    tree = {"format": FORMAT, **dataclasses.asdict(found)}
    _replace(place / "results.json", json.dumps(tree, indent=1, allow_nan=False, ensure_ascii=False) + "\n")
    return place / "results.json"


def _row(item: Graded) -> dict[str, Any]:
    groups = {kind: list(listed) for kind, listed in item.groups.items()}
    return {"id": item.id, "counts": dict(item.counts), "groups": groups, "shown": dict(item.shown)}


def _replace(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_text(text, encoding="utf-8", errors="surrogatepass")
    os.replace(fresh, path)


def read(folder: Path) -> list[Measured]:
    """Every metric measured in a run folder, by name; UserError naming a file that is none of ours."""
    found = []
    for path in sorted((folder / "evaluation" / FOLDER).glob("*/results.json")):
        try:
            tree = json.loads(path.read_text(encoding="utf-8", errors="surrogatepass"))
            if tree.pop("format") != FORMAT:
                raise ValueError(f"this version reads format {FORMAT}")
            blocks = tuple(_read_block(one) for one in tree.pop("blocks"))
            tree |= {key: tuple(map(str, tree[key])) for key in ("notes", "costs")}
            found.append(Measured(blocks=blocks, **tree))
            _ = found[-1].whole, found[-1].manner
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise UserError(
                f"{path}: not a metric's results ({type(error).__name__}: {error}); evaluate again"
            ) from error
    return found


def _read_block(tree: Mapping[str, Any]) -> Block:
    sides = {str(side): _read_figures(values) for side, values in tree["sides"].items()}
    return Block(
        str(tree["kind"]), str(tree["group"]), int(tree["num"]), sides, _read_figures(tree["difference"])
    )


def _read_figures(tree: Mapping[str, Any]) -> dict[str, Figure]:
    return {
        str(name): Figure(
            *(None if one[key] is None else float(one[key]) for key in ("value", "low", "high"))
        )
        for name, one in tree.items()
    }
