"""From a source to checked samples: the options every source shares, and `load`.

A source is a dataclass with `records()`, which yields rows to be checked here, or with `samples()`, which
yields ready PreferenceSamples. Subclassing SourceOptions gives it the common options; a source that does not
gets their defaults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from mmalign.data._digest import digest, sample_digest
from mmalign.data._paths import File
from mmalign.data._records import CANONICAL, Record, read_record
from mmalign.types import Example, Message, Part, PreferenceSample, UserError, derive_seed

Row = tuple[str, Mapping[str, Any] | UserError]  # origin, and the row or what is wrong with it


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Options common to all sources.

    `root`: folder that media names are relative to and must stay inside (default: the data's own folder).
    `split`: keep only rows whose `split` column has this value. `limit`: keep only the first rows.
    `heldout`: rows kept back for evaluation, a count or a share below 1, chosen by a hash of the row's id.
    `on_error`: "stop" at the first broken row, or "skip" and list it. `columns`: {canonical field: column
    of the file}, with null to leave a canonical field out. `drop_identical`: leave out pairs whose two
    sides are equal (they carry no gradient) instead of only counting them. `flip`: share of training pairs
    whose sides are swapped, chosen by a hash of the id, for studies of label noise; 0.5 is the shuffled-label
    control. Rows kept back by `heldout` keep their sides, so that they measure the true preference.
    """

    root: str | None = None
    split: str | None = None
    limit: int | None = None
    heldout: int | float = 0
    on_error: Literal["stop", "skip"] = "stop"
    columns: dict[str, str | None] = field(default_factory=dict)
    drop_identical: bool = False
    flip: float = 0.0

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"limit: must be at least 1, got {self.limit}")
        if self.heldout < 0 or (isinstance(self.heldout, float) and self.heldout >= 1):
            raise ValueError(f"heldout: must be a count, or a share from 0 to below 1, got {self.heldout}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip: must lie in [0, 1], got {self.flip}")
        if self.on_error not in ("stop", "skip"):
            raise ValueError(f"on_error: must be stop or skip, got {self.on_error!r}")
        for name in self.columns:
            if name not in CANONICAL:
                known = ", ".join(sorted(CANONICAL))
                raise ValueError(f"columns: {name!r} is no canonical field; known: {known}")

    @property
    def folder(self) -> str:
        """The folder that media names are relative to."""
        return self.root or "."

    @property
    def title(self) -> str:
        """What messages call the source where no row is at hand."""
        return "the source"


@runtime_checkable
class RecordSource(Protocol):
    """A source of rows."""

    def records(self) -> Iterator[Row]:
        """Every row with its origin ("pairs.jsonl row 17")."""


@runtime_checkable
class SampleSource(Protocol):
    """A source of ready samples."""

    def samples(self) -> Iterator[PreferenceSample]:
        """Every sample; ids must be unique."""


@dataclass(frozen=True)
class Skipped:
    """A row that was left out."""

    id: str
    origin: str
    reason: str


@dataclass
class LoadReport:
    """What became of a source's rows; nothing is left out without a count here."""

    rows: int = 0
    kept: int = 0
    heldout: int = 0
    other_splits: Counter[str] = field(default_factory=Counter)
    splits: Counter[str] = field(default_factory=Counter)
    identical: int = 0
    identical_dropped: int = 0
    flipped: int = 0
    unknown_columns: Counter[str] = field(default_factory=Counter)
    roles: Counter[str] = field(default_factory=Counter)
    skipped: list[Skipped] = field(default_factory=list)
    data_hash: str = ""

    def lines(self) -> list[str]:
        """One plain line per fact worth saying."""
        roles = ", ".join(f"{role} {count}" for role, count in sorted(self.roles.items()))
        lines = [f"data: {self.kept} of {self.rows} rows used ({roles})"]
        if self.heldout:
            lines.append(f"data: {self.heldout} rows belong to the other side of the held-out split")
        if self.other_splits:
            lines.append(f"data: rows of other splits left out: {_counts(self.other_splits)}")
        if len(self.splits) > 1:
            lines.append(f"data: no split chosen, rows of all splits are used: {_counts(self.splits)}")
        if self.identical:
            fate = "left out" if self.identical_dropped else "kept; they carry no gradient"
            lines.append(f"data: {self.identical} pairs whose two sides are equal ({fate})")
        if self.flipped:
            lines.append(f"data: {self.flipped} pairs have their sides swapped (flip)")
        if self.unknown_columns:
            lines.append(f"data: columns not used: {_counts(self.unknown_columns)}")
        if self.skipped:
            share = 100 * len(self.skipped) / max(1, self.rows)
            first = self.skipped[0]
            lines.append(f"data: {len(self.skipped)} broken rows left out ({share:.1f} %); {first.reason}")
        return lines


@dataclass(frozen=True)
class LoadedData:
    """Checked samples, media not yet decoded, and the report on how they came about."""

    samples: list[PreferenceSample]
    report: LoadReport


def options_of(source: RecordSource | SampleSource) -> SourceOptions:
    """The common options of a source; the defaults for one that has none."""
    return source if isinstance(source, SourceOptions) else SourceOptions()


def load(source: RecordSource | SampleSource, which: Literal["train", "heldout"] = "train") -> LoadedData:
    """Read a whole source and check every row.

    Raises UserError for a broken row (on_error "stop"), an id that occurs twice, a split that does not exist,
    a held-out part that is empty or leaves nothing, and a source without rows.
    """
    options = options_of(source)
    report = LoadReport()
    samples: list[PreferenceSample] = []
    digests: list[str] = []
    origins: dict[str, str] = {}
    for sample in _checked(source, options, report):
        if sample.id in origins:
            raise UserError(f"{sample.origin}: id {sample.id!r} is also that of {origins[sample.id]}")
        origins[sample.id] = sample.origin
        if _is_identical(sample):
            report.identical += 1
            if options.drop_identical:
                report.identical_dropped += 1
                continue
        samples.append(sample)
        if options.limit is not None and len(samples) == options.limit:
            break
    if not samples:
        raise UserError(_nothing_left(options, report))
    samples = _part_of(samples, options, which, report)
    if which == "train":
        samples = _flipped(samples, options.flip, report)
    for sample in samples:
        report.roles.update(list(sample.examples))
        digests.append(digest(sample.id, sample_digest(sample)))
    report.kept = len(samples)
    report.data_hash = digest(digests)
    return LoadedData(samples, report)


def _checked(
    source: RecordSource | SampleSource, options: SourceOptions, report: LoadReport
) -> Iterator[PreferenceSample]:
    """Samples of either kind of source; broken rows raise or are noted."""
    root = options.folder
    if options.root is not None and not Path(root).is_dir():
        raise UserError(f"data.root {root!r}: no such folder")
    if isinstance(source, SampleSource):
        for sample in source.samples():
            report.rows += 1
            yield _bind(_ready(sample), root)
        return
    for number, (origin, row) in enumerate(source.records()):
        report.rows += 1
        try:
            if isinstance(row, UserError):
                raise row
            row = _renamed(row, options.columns, origin)
            if not _in_split(row, options.split, origin, report):
                continue
            record: Record = read_record(row, origin, number, root)
        except UserError as error:
            if options.on_error == "stop":
                raise
            report.skipped.append(Skipped("", origin, str(error)))
            continue
        report.unknown_columns.update(record.unused)
        yield record.sample


def _renamed(row: Mapping[str, Any], columns: Mapping[str, str | None], origin: str) -> Mapping[str, Any]:
    """The row under canonical names. A column that was mapped is no longer there under its old name."""
    if not columns:
        return row
    missing = [column for column in columns.values() if column is not None and column not in row]
    if missing:
        known = ", ".join(sorted(map(str, row)))
        raise UserError(f"{origin}: data.columns names {missing[0]!r}, which the row lacks; it has {known}")
    taken = {column for column in columns.values() if column is not None}
    renamed = {key: value for key, value in row.items() if key not in taken and key not in columns}
    return renamed | {name: row[column] for name, column in columns.items() if column is not None}


def _in_split(row: Mapping[str, Any], split: str | None, origin: str, report: LoadReport) -> bool:
    value = row.get("split")
    if split is not None and value is None:
        raise UserError(f"{origin}: data.split is {split!r}, but the row has no split column")
    if split is not None and value != split:
        report.other_splits[str(value)] += 1
        return False
    if value is not None:
        report.splits[str(value)] += 1
    return True


def _ready(sample: Any) -> PreferenceSample:
    if not isinstance(sample, PreferenceSample):
        raise UserError(f"samples() must yield PreferenceSample, got {type(sample).__name__}")
    if not sample.id or not sample.examples:
        raise UserError(f"{sample.origin or 'samples()'}: a sample needs an id and at least one role")
    return sample


def _bind(sample: PreferenceSample, root: str) -> PreferenceSample:
    """Media names of ready samples become files inside the root."""

    def bound(parts: tuple[Part, ...]) -> tuple[Part, ...]:
        return tuple(
            Part(part.kind, File(root, str(part.data)))
            if part.kind != "text" and isinstance(part.data, (str, Path))
            else part
            for part in parts
        )

    def one(example: Example) -> Example:
        prompt = tuple(Message(turn.speaker, bound(turn.parts)) for turn in example.prompt)
        return replace(example, prompt=prompt, response=bound(example.response))

    return replace(sample, examples={role: tuple(map(one, group)) for role, group in sample.examples.items()})


def _is_identical(sample: PreferenceSample) -> bool:
    if not {"chosen", "rejected"} <= set(sample.examples):
        return False
    sides = [[(one.prompt, one.response) for one in sample.examples[role]] for role in ("chosen", "rejected")]
    return digest(sides[0]) == digest(sides[1])


def _flipped(samples: list[PreferenceSample], share: float, report: LoadReport) -> list[PreferenceSample]:
    """Exactly the share of the pairs, rounded, with their sides swapped: those whose ids hash lowest. A count
    left to chance would leave a shuffled-label control with a preference of its own."""
    pairs = [sample.id for sample in samples if {"chosen", "rejected"} <= set(sample.examples)]
    ordered = sorted(pairs, key=lambda name: (derive_seed(0, 0, name, "flip"), name))
    chosen = set(ordered[: round(share * len(ordered))])
    report.flipped = len(chosen)
    return [_swapped(sample) if sample.id in chosen else sample for sample in samples]


def _swapped(sample: PreferenceSample) -> PreferenceSample:
    chosen, rejected = sample.examples["chosen"], sample.examples["rejected"]
    return replace(sample, examples={**sample.examples, "chosen": rejected, "rejected": chosen})


def _part_of(
    samples: list[PreferenceSample], options: SourceOptions, which: str, report: LoadReport
) -> list[PreferenceSample]:
    """The training rows or the held-out ones. The hash of an id does not depend on the other rows, so with a
    share a row never changes sides when the file grows."""
    if not options.heldout:
        if which == "heldout":
            raise UserError("data.heldout is 0: no rows are kept back for evaluation")
        return samples
    marks = {sample.id: derive_seed(0, 0, sample.id, "heldout") for sample in samples}
    if isinstance(options.heldout, float):
        away = {name for name, mark in marks.items() if mark < options.heldout * 2**63}
    else:
        away = set(sorted(marks, key=lambda name: (marks[name], name))[: int(options.heldout)])
    if not away or len(away) == len(samples):
        rule = "keeps back none" if not away else "keeps back all"
        raise UserError(f"data.heldout {options.heldout} {rule} of the {len(samples)} rows")
    chosen = [sample for sample in samples if (sample.id in away) == (which == "heldout")]
    report.heldout = len(samples) - len(chosen)
    return chosen


def _nothing_left(options: SourceOptions, report: LoadReport) -> str:
    if not report.rows:
        return f"data: {options.title} holds no rows"
    if report.other_splits:
        return f"data.split {options.split!r}: no such rows; splits are {_counts(report.other_splits)}"
    if report.skipped:
        return f"data: all {len(report.skipped)} rows are broken; the first: {report.skipped[0].reason}"
    return "data: all rows have two equal sides (drop_identical)"


def _counts(counter: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items()))
