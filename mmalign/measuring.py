"""Benchmarks of a run's base and trained model, or of files of answers that somebody else wrote."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmalign._build import build_named
from mmalign._evaluation import AnswerSettings, metrics_from
from mmalign._names import KINDS, name_of
from mmalign.evaluation._absent import refuse_absent_files, refuse_absent_folders
from mmalign.metrics import _measured
from mmalign.metrics._measured import Block, Measured, items
from mmalign.metrics._resampling import Figure
from mmalign.metrics._seam import Graded, Metric, Question
from mmalign.metrics._thoughts import is_unfinished
from mmalign.types import Adapter, Judge, UserError

if TYPE_CHECKING:
    from mmalign.evaluation.comparison import Comparison
    from mmalign.training.finished import FinishedRun


def measure(
    run: str | Path | FinishedRun,
    metrics: Sequence[Metric] | None = None,
    count: int | None = None,
    seed: int | None = None,
) -> list[Measured]:
    """Ask both models of a run what the metrics ask, those of its config or those given, grade the answers
    and write figures, rows and the report into the run folder. Both answer by `evaluation.generation`,
    greedily where it says nothing. Answers are kept as they come: what is there already is not made again.
    `count`: so many questions of each metric, evenly spread; None: all.

    Raises UserError for no metric, and for one that the run's model cannot be asked.
    """
    from mmalign.config import identity, to_tree
    from mmalign.data._digest import digest
    from mmalign.evaluation.asking import Asker, Side
    from mmalign.report.write import write_report
    from mmalign.training.finished import open_run

    run = open_run(Path(run)) if isinstance(run, str | Path) else run
    section = run.config.evaluation
    chosen = list(section.metrics if metrics is None else metrics)
    if not chosen:
        raise UserError("evaluate: no metric; give --metric NAME or evaluation.metrics")
    batch, drawn_from = section.batch, section.seed if seed is None else seed
    adapter, manner = _answering(run.adapter, section.generation)
    asker = Asker(adapter, run.adapter.frames, run.folder, batch, drawn_from)
    start = {
        "model": to_tree(run.config)["model"],
        "lora": None if run.config.lora is None else run.config.lora.path,
    }
    sides = [
        Side("base", {"weights": digest(start), "generation": manner}, run.base),
        Side("tuned", {"weights": identity(run.config), "step": run.step, "generation": manner}, run.tuned),
    ]
    answered = None if manner is None else {**manner, "seed": drawn_from}
    asked = questions_of_all(run, chosen, count)
    found = []
    for name, metric, questions in asked:
        graded: dict[str, list[Graded]] = {}
        notes: list[str] = []
        for side in sides:
            given = asker.answers(side, questions)
            graded[side.name] = metric.graded(given)
            notes += _unfinished(side.name, given)
        found.append(_measured.measured(metric, name, graded, notes, run.step, answered))
        _measured.write(run.folder, found[-1], graded)
        write_report(run.folder)
    return found


def _answering(adapter: Adapter, wanted: AnswerSettings) -> tuple[Adapter, dict[str, Any] | None]:
    """The adapter as it is to answer metrics, and its settings; None for an adapter of which only it knows
    how it answers. Raises UserError for settings that such a one would not read."""
    from mmalign.adapters._text_sampling import Answers

    if not isinstance(adapter, Answers):
        if wanted != AnswerSettings():
            raise UserError(
                f"evaluation.generation: {type(adapter).__name__} answers by settings of its own; remove it"
            )
        return adapter, None
    own = adapter.config.generation
    settings = replace(
        own,
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        max_new_tokens=wanted.max_new_tokens or own.max_new_tokens,
    )
    told = {"temperature": settings.temperature, "top_p": settings.top_p}
    told |= {"max_new_tokens": settings.max_new_tokens, "stop": list(settings.stop)}
    return adapter.answering(settings), told


def questions_of_all(
    run: FinishedRun, metrics: Sequence[Metric], count: int | None
) -> list[tuple[str, Metric, list[Question]]]:
    """Every metric with its name and what is asked; all that grading needs is loaded, so that what cannot be
    measured is refused before anything is generated."""
    asked = [(name, metric, questions_of(metric, name, run, count)) for name, metric in named(metrics)]
    for metric in metrics:
        metric.ready()
    return asked


def questions_of(metric: Metric, name: str, run: FinishedRun, count: int | None) -> list[Question]:
    """What is asked: all questions, or so many of them, with those that ask them again under a view."""
    every = list(metric.ask())
    if not every:
        raise UserError(f"{name}: asks nothing; give the files that it reads by --answers")
    refuse_absent_folders(metric, name, every)
    kinds = {part.kind for one in every for turn in one.turns for part in turn.parts} - {"text"}
    if run.adapter.kind != "exact" or not kinds <= run.adapter.media:
        reads = ", ".join(sorted(run.adapter.media)) or "none"
        raise UserError(
            f"{name}: asks about {' and '.join(sorted(kinds)) or 'texts'}, to be answered in words; "
            f"this run's model ({name_of(KINDS['model'], type(run.config.model))}) reads {reads}"
        )
    plain = [one for one in every if not one.of]
    if count is not None and count < len(plain):
        plain = [plain[place * len(plain) // count] for place in range(count)]
    ids = {one.id for one in plain}
    asked = [one for one in every if (one.of or one.id) in ids]
    refuse_absent_files(metric, name, asked)
    return asked


def measure_answers(files: Sequence[Path], metrics: Sequence[Metric]) -> list[Measured]:
    """Figures of answers from files: of one, or of two, the base model's and the tuned one's, with their
    difference. Questions without an answer, and answers to nothing, are counted in the notes.

    Raises UserError for other numbers of files and where no answer belongs to a question.
    """
    if not 1 <= len(files) <= 2:
        raise UserError(
            f"evaluate --answers: give one file, or base and tuned in this order, got {len(files)}"
        )
    if not metrics:
        raise UserError("evaluate --answers: say by --metric what the files answer")
    sides = ("answers",) if len(files) == 1 else ("base", "tuned")
    found = []
    for metric in metrics:
        metric.ready()
    for name, metric in named(metrics):
        notes: list[str] = []
        graded: dict[str, list[Graded]] = {}
        for side, path in zip(sides, files, strict=True):
            given = metric.predictions(path)
            graded[side] = metric.graded(given)
            notes += _left_out(side, given, [one.id for one in metric.ask()])
            notes += [*_empty(side, given), *_unfinished(side, given)]
        if not all(graded.values()):
            empty = files[[not items for items in graded.values()].index(True)]
            raise UserError(f"{empty}: answers no question of {name}; its ids are others")
        found.append(_measured.measured(metric, name, graded, notes))
    return found


def _left_out(side: str, given: Mapping[str, str], asked: Sequence[str]) -> Iterator[str]:
    if not asked:
        return
    lacking, other = len(set(asked) - given.keys()), len(given.keys() - set(asked))
    if lacking:
        yield f"{side}: {lacking} of {len(asked)} questions have no answer and are left out"
    if other:
        told = (
            "answer belongs to no question and is" if other == 1 else "answers belong to no question and are"
        )
        yield f"{side}: {other} {told} left out"


def _empty(side: str, given: Mapping[str, str]) -> Iterator[str]:
    if empty := sum(not text.strip() for text in given.values()):
        yield f"{side}: {empty} of {len(given)} answers {'is' if empty == 1 else 'are'} empty and graded so"


def _unfinished(side: str, given: Mapping[str, str]) -> Iterator[str]:
    if cut := sum(map(is_unfinished, given.values())):
        yield f"{side}: {cut} of {len(given)} answers end within a thought and are graded as empty ones"


def named(metrics: Sequence[Metric]) -> list[tuple[str, Metric]]:
    """Every metric with its name; several of one name are numbered."""
    found: list[tuple[str, Metric]] = []
    seen: Counter[str] = Counter()
    for metric in metrics:
        own = name_of(KINDS["metrics"], type(metric)).rpartition(":")[2].rpartition(".")[2]
        name = metric.called(own)
        seen[name] += 1
        found.append((name if seen[name] == 1 else f"{name}_{seen[name]}", metric))
    return found


def chosen_metrics(words: Sequence[str], known: Sequence[Metric] = ()) -> list[Metric]:
    """Metrics from the command line: a section in braces, or a name, which stands for those of that name
    among `known`, the config's own, and for a metric without fields where there are none."""
    from mmalign._yaml import parse

    found: list[Metric] = []
    for one in words:
        if one.lstrip().startswith("{"):
            found += metrics_from(parse(one, "--metric"), "--metric", True)
            continue
        same = [metric for metric in known if name_of(KINDS["metrics"], type(metric)) == one]
        found += same or metrics_from(one, "--metric", True)
    return found


def judges_from(words: Sequence[str]) -> list[Judge]:
    """Judges from the command line: names, or sections in braces."""
    from mmalign._yaml import parse

    sections = [parse(one, "--judge") if one.lstrip().startswith("{") else {"name": one} for one in words]
    return [build_named(KINDS["judge"], section, "--judge", True) for section in sections]


def check_options(
    run: Path | None, only_runs: Mapping[str, Any], metrics: Sequence[str], answers: Sequence[Path] | None
) -> None:
    """Raise UserError for options of `mmalign evaluate` that would not be read together."""
    if answers:
        unread = ["RUN", *(f"--{name}" for name, value in only_runs.items() if value)]
        unread = unread if run is not None else unread[1:]
        if unread:
            raise UserError(f"evaluate --answers: reads files alone; leave out {', '.join(unread)}")
    elif run is None:
        raise UserError(
            "evaluate: name the folder of a run, or answers to grade (--answers FILE --metric NAME)"
        )
    elif metrics and (only_runs["judge"] or only_runs["file"]):
        raise UserError("evaluate --metric: asks its own questions; leave out --judge and --file")


def told(comparison: Comparison | None, found: Sequence[Measured], as_json: bool) -> str:
    """What was compared and measured, in lines or as one JSON object."""
    if as_json:
        tree = {} if comparison is None else comparison.figures()
        return json.dumps(tree | ({"metrics": {one.name: asdict(one) for one in found}} if found else {}))
    said = [] if comparison is None else comparison.lines()
    return "\n".join([*said, *_lines(found)])


def _lines(found: Sequence[Measured]) -> Iterator[str]:
    """Figures in plain lines, one per value."""
    for one in found:
        yield f"{one.name}, {items(one.whole.num)}" + (" (unchecked)" if one.unchecked else "")
        if one.manner:
            yield f"  {one.manner}"
        for note in one.notes:
            yield f"  {note}"
        yield from _values(one.whole, one.costs)


def _values(block: Block, costs: Sequence[str]) -> Iterator[str]:
    for name in dict.fromkeys(name for values in block.sides.values() for name in values):
        shown = " -> ".join(_number(values.get(name, Figure(None))) for values in block.sides.values())
        change = block.difference.get(name)
        less = "  (less is better)" if name in costs else ""
        yield f"  {name:18} {shown}" + ("" if change is None else f"   change {_number(change)}") + less


def _number(figure: Figure) -> str:
    if figure.value is None:
        return "none"
    interval = "" if figure.low is None else f" [{figure.low:.3f}, {figure.high:.3f}]"
    return f"{figure.value:.3f}{interval}"
