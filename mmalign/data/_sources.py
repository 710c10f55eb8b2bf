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
from mmalign.data._formats import Format, LeftOut, columns_of, known_formats, read_row
from mmalign.data._load_report import LoadReport as LoadReport
from mmalign.data._load_report import Skipped as Skipped
from mmalign.data._load_report import counts_of
from mmalign.data._paths import File
from mmalign.data._sides import flipped, is_identical, part_of
from mmalign.types import Example, Message, Part, PreferenceSample, UserError

Row = tuple[str, Mapping[str, Any] | UserError]  # origin, and the row or what is wrong with it


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Options common to all sources.

    `format`: the form of the rows, a file of `data/formats/`; "auto" recognises every row by its columns.
    `root`: folder that media names are relative to and must stay inside (default: the data's own folder).
    `split`: keep only rows whose `split` column has this value. `limit`: keep only the first rows.
    `heldout`: rows kept back for evaluation, a count or a share below 1, chosen by a hash of the row's id.
    `on_error`: "stop" at the first broken row, or "skip" and list it. `columns`: {canonical field, or
    column of the format: column of the file}, with null to leave it out. `drop_identical`: leave out pairs
    whose two sides are equal (they carry no gradient) instead of only counting them. `ties`: "drop" leaves
    out pairs labelled as ties, which have no better side. `flip`: share of training pairs
    whose sides are swapped, chosen by a hash of the id, for studies of label noise; 0.5 is the shuffled-label
    control. Rows kept back by `heldout` keep their sides, so that they measure the true preference.
    """

    format: str = "auto"
    root: str | None = None
    split: str | None = None
    limit: int | None = None
    heldout: int | float = 0
    on_error: Literal["stop", "skip"] = "stop"
    columns: dict[str, str | None] = field(default_factory=dict)
    drop_identical: bool = False
    ties: Literal["drop", "keep"] = "drop"
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
        if self.ties not in ("drop", "keep"):
            raise ValueError(f"ties: must be drop or keep, got {self.ties!r}")
        fields = columns_of(known_formats(self.format))
        for name in self.columns:
            if name not in fields:
                known = ", ".join(sorted(fields))
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
class LoadedData:
    """Checked samples, media not yet decoded, and the report on how they came about."""

    samples: list[PreferenceSample]
    report: LoadReport


def options_of(source: RecordSource | SampleSource) -> SourceOptions:
    """The common options of a source; the defaults for one that has none."""
    return source if isinstance(source, SourceOptions) else SourceOptions()


def load(
    source: RecordSource | SampleSource,
    which: Literal["train", "heldout"] = "train",
    every_fault: bool = False,
) -> LoadedData:
    """Read a whole source and check every row.

    Raises UserError for a broken row (on_error "stop"), an id that occurs twice, a split that does not exist,
    a held-out part that is empty or leaves nothing, and a source without rows. With `every_fault` all broken
    rows and repeated ids are listed in the report, whatever `on_error` says, even if no row is left.
    """
    options = replace(options_of(source), on_error="skip") if every_fault else options_of(source)
    report = LoadReport(options.title)
    samples: list[PreferenceSample] = []
    digests: list[str] = []
    origins: dict[str, str] = {}
    for sample in _checked(source, options, report):
        if sample.id in origins:
            reason = f"{sample.origin}: id {sample.id!r} is also that of {origins[sample.id]}"
            if not every_fault:
                raise UserError(reason)
            report.skipped.append(Skipped(sample.id, sample.origin, reason))
            continue
        origins[sample.id] = sample.origin
        if sample.labels.get("tie"):
            report.ties += 1
            if options.ties == "drop":
                report.ties_dropped += 1
                continue
        if is_identical(sample):
            report.identical += 1
            if options.drop_identical:
                report.identical_dropped += 1
                continue
        samples.append(sample)
        if options.limit is not None and len(samples) == options.limit:
            break
    if not samples and every_fault and report.skipped:
        return LoadedData([], report)
    if not samples:
        raise UserError(_nothing_left(options, report))
    total = len(samples)
    samples = part_of(samples, options.heldout, which)
    report.heldout = total - len(samples)
    if which == "train":
        samples, report.flipped = flipped(samples, options.flip)
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
        if options.format != "auto":
            raise UserError(f"data.format {options.format!r}: this source yields ready samples, not rows")
        for sample in source.samples():
            report.rows += 1
            yield _bind(_ready(sample), root)
        return
    formats = known_formats(options.format)
    for number, (origin, row) in enumerate(source.records()):
        report.rows += 1
        try:
            found = _sample(row, origin, number, options, formats, report)
        except UserError as error:
            if options.on_error == "stop":
                raise
            report.skipped.append(Skipped("", origin, str(error)))
            continue
        if found is not None:
            yield found


def _sample(
    row: Mapping[str, Any] | UserError,
    origin: str,
    number: int,
    options: SourceOptions,
    formats: Mapping[str, Format],
    report: LoadReport,
) -> PreferenceSample | None:
    """One checked row; None if it is of another split or holds no preference."""
    if isinstance(row, UserError):
        raise row
    if not isinstance(row, Mapping):
        raise UserError(f"{origin}: a row must be a mapping of fields, got {type(row).__name__}")
    row = _renamed(row, options.columns, origin)
    if not _in_split(row, options.split, origin, report):
        return None
    found = read_row(row, origin, number, options.folder, formats)
    if found.signs:
        report.formats[found.format] += 1
        report.signs.setdefault(found.format, found.signs)
    if isinstance(found.result, LeftOut):
        report.left_out[found.result.reason] += 1
        return None
    report.unknown_columns.update(found.result.unused)
    return found.result.sample


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


def _nothing_left(options: SourceOptions, report: LoadReport) -> str:
    if not report.rows:
        return f"data: {options.title} holds no rows"
    if report.other_splits:
        return f"data.split {options.split!r}: no such rows; splits are {counts_of(report.other_splits)}"
    if report.skipped:
        return f"data: all {len(report.skipped)} rows are broken; the first: {report.skipped[0].reason}"
    if report.left_out or report.ties_dropped:
        reasons = counts_of(report.left_out + Counter({"ties": report.ties_dropped}))
        return f"data: {options.title}: no row holds a preference ({reasons})"
    return "data: all rows have two equal sides (drop_identical)"
