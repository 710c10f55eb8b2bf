"""Reading a source row by row: renamed columns, splits, formats, and the rows of a group put together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmalign._relative import started_from
from mmalign.data._formats import Format, LeftOut, known_formats, read_row
from mmalign.data._lists import Lists
from mmalign.data._load_report import LoadReport, Skipped
from mmalign.data._media_columns import looks_like
from mmalign.data._options import Row, SourceOptions
from mmalign.data._paths import File
from mmalign.data._records import PROMPT
from mmalign.types import Example, Message, Part, PreferenceSample, UserError


def ready_samples(
    samples: Iterable[PreferenceSample], options: SourceOptions, report: LoadReport, prompts: bool
) -> Iterator[PreferenceSample]:
    """Samples that a source made itself, their media bound to its folder. `prompts` as in `read_rows`."""
    _refuse_missing_root(options)
    if options.format != "auto":
        raise UserError(f"data.format {options.format!r}: this source yields ready samples, not rows")
    for sample in samples:
        report.rows += 1
        ready = _bind(_ready(sample), options.folder)
        if not prompts:
            _refuse_alone(ready, ())
        yield ready


def read_rows(
    rows: Iterable[Row], options: SourceOptions, report: LoadReport, lists: Lists, prompts: bool
) -> Iterator[PreferenceSample]:
    """Checked samples of rows; broken rows raise or are noted. Rows of groups come last, as lists. Unless
    `prompts` says that no answers are needed, a row with a prompt alone is a broken one."""
    _refuse_missing_root(options)
    formats = known_formats(options.format)
    for number, (origin, row) in enumerate(rows):
        report.rows += 1
        try:
            found = _sample(row, origin, number, formats, lists)
            if found is not None and not prompts and isinstance(row, Mapping):
                _refuse_alone(found, tuple(map(str, row)))
        except UserError as error:
            if options.on_error == "stop":
                raise
            report.skipped.append(Skipped("", origin, str(error)))
            continue
        if found is not None:
            yield found
    yield from lists.grouped()


def _refuse_alone(sample: PreferenceSample, columns: tuple[str, ...]) -> None:
    """Raise UserError for a sample that has nothing but a prompt."""
    if set(sample.examples) == {PROMPT}:
        told = f"; its columns are {', '.join(sorted(columns))}" if columns else ""
        raise UserError(
            f"{sample.origin}: no chosen and rejected, completion or responses{told}; a prompt alone serves "
            "where the model's own answers are trained on: section online, and objectives with a reward"
        )


def _refuse_missing_root(options: SourceOptions) -> None:
    if options.root is not None and not Path(options.root).is_dir():
        raise UserError(f"data.root {options.root!r}: no such folder{started_from(options.root)}")


def _sample(
    row: Mapping[str, Any] | UserError | LeftOut,
    origin: str,
    number: int,
    formats: Mapping[str, Format],
    lists: Lists,
) -> PreferenceSample | None:
    """One checked row; None if it is of another split, holds no preference or waits for its group."""
    options, report = lists.options, lists.report
    if isinstance(row, UserError):
        raise row
    if isinstance(row, LeftOut):
        report.left_out[row.reason] += 1
        return None
    if not isinstance(row, Mapping):
        raise UserError(f"{origin}: a row must be a mapping of fields, got {type(row).__name__}")
    row = _renamed(row, options.columns, origin)
    if not _in_split(row, options.split, origin, report):
        return None
    found = read_row(row, origin, number, options.folder, formats)
    if found.signs:
        report.formats[found.format] += 1
        report.signs.setdefault(found.format, found.signs)
    report.unrated_answers += found.unrated
    if isinstance(found.result, LeftOut):
        report.left_out[found.result.reason] += 1
        return None
    report.unknown_columns.update(found.result.unused)
    for column in sorted({*found.result.unused} - report.media_columns.keys()):
        if (kind := looks_like(column, row.get(column))) is not None:
            report.media_columns[column] = kind
    sample = found.result.sample
    if found.group is not None:
        lists.add(found.group, sample)
        return None
    if found.pairs is not None:
        lists.rules[sample.id] = found.pairs
    return sample


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
