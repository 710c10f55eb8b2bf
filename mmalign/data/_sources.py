"""From a source to checked samples: the options every source shares, and `load`.

A source is a dataclass with `records()`, which yields rows to be checked here, or with `samples()`, which
yields ready PreferenceSamples. Subclassing SourceOptions gives it the common options; a source that does not
gets their defaults.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

from mmalign.data._digest import digest, sample_digest
from mmalign.data._frame_folders import unrated_folders
from mmalign.data._lists import Lists
from mmalign.data._load_report import LoadReport as LoadReport
from mmalign.data._load_report import Skipped as Skipped
from mmalign.data._load_report import counts_of
from mmalign.data._media_columns import holds_media
from mmalign.data._options import Row as Row
from mmalign.data._options import SourceOptions as SourceOptions
from mmalign.data._reading import read_rows, ready_samples
from mmalign.data._sides import flipped, has_own_turns, is_identical, part_of, scores_of
from mmalign.types import PreferenceSample, UserError


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
    prompts: bool = False,
) -> LoadedData:
    """Read a whole source and check every row.

    Raises UserError for a broken row (on_error "stop"), an id that occurs twice, a split that does not exist,
    a held-out part that is empty or leaves nothing, and a source without rows. With `every_fault` all broken
    rows and repeated ids are listed in the report, whatever `on_error` says, even if no row is left. Rows
    with nothing but a prompt are broken ones unless `prompts` says that answers are not needed.
    """
    options = replace(options_of(source), on_error="skip") if every_fault else options_of(source)
    report = LoadReport(options.title)
    samples: list[PreferenceSample] = []
    origins: dict[str, str] = {}
    lists = Lists(options, report)
    for sample in _checked(source, lists, prompts):
        if sample.id in origins:
            reason = f"{sample.origin}: id {sample.id!r} is also that of {origins[sample.id]}"
            if not every_fault:
                raise UserError(reason)
            report.skipped.append(Skipped(sample.id, sample.origin, reason))
            continue
        origins[sample.id] = sample.origin
        if not lists.takes(sample) and not _is_wanted(sample, options, report):
            continue
        samples.append(sample)
        if options.limit is not None and len(samples) == options.limit:
            break
    if not samples and every_fault and report.skipped:
        return LoadedData([], report)
    if not samples:
        raise UserError(_nothing_left(options, report))
    if options.pairs is not None and not any(map(lists.takes, samples)):
        raise UserError(f"data.pairs: {options.title}: no row is a list of responses or a pair with scores")
    total = len(samples)
    samples = part_of(samples, options.heldout, which)
    report.heldout = total - len(samples)
    samples = [made for sample in samples for made in _made(sample, lists, options, report)]
    if not samples and not (every_fault and report.skipped):
        raise UserError(_nothing_left(options, report))
    return _finished(samples, options, report, which)


def _finished(
    samples: list[PreferenceSample], options: SourceOptions, report: LoadReport, which: str
) -> LoadedData:
    """The samples with their sides swapped where that is wanted, and the last counts."""
    if which == "train":
        samples, report.flipped = flipped(samples, options.flip)
    digests = []
    for sample in samples:
        report.roles.update(list(sample.examples))
        digests.append(digest(sample.id, sample_digest(sample)))
    report.kept = len(samples)
    report.seeing = sum(map(holds_media, samples))
    report.unrated = unrated_folders(samples)
    report.data_hash = digest(digests)
    return LoadedData(samples, report)


def _checked(source: RecordSource | SampleSource, lists: Lists, prompts: bool) -> Iterator[PreferenceSample]:
    """Samples of either kind of source; broken rows raise or are noted."""
    if isinstance(source, SampleSource):
        return ready_samples(source.samples(), lists.options, lists.report, prompts)
    return read_rows(source.records(), lists.options, lists.report, lists, prompts)


def _is_wanted(sample: PreferenceSample, options: SourceOptions, report: LoadReport) -> bool:
    """False for ties and pairs of equal sides that are to be left out; counts both."""
    if sample.labels.get("tie"):
        report.ties += 1
        if options.ties == "drop":
            report.ties_dropped += 1
            return False
    if is_identical(sample):
        report.identical += 1
        if options.drop_identical:
            report.identical_dropped += 1
            return False
    return True


def _made(
    sample: PreferenceSample, lists: Lists, options: SourceOptions, report: LoadReport
) -> list[PreferenceSample]:
    """The sample itself, or the pairs that its list gives."""
    if not lists.takes(sample):
        if (scores := scores_of(sample)) is not None:
            report.scored_pairs += 1
            report.reversed_scores += scores[0] < scores[1]
        report.own_turns += has_own_turns(sample)
        return [sample]
    try:
        pairs = lists.pairs(sample)
    except UserError as error:
        if options.on_error == "stop":
            raise
        report.skipped.append(Skipped(sample.id, sample.origin, str(error)))
        return []
    return [pair for pair in pairs if _is_wanted(pair, options, report)]


def _nothing_left(options: SourceOptions, report: LoadReport) -> str:
    if not report.rows:
        return f"data: {options.title} holds no rows"
    if report.other_splits:
        return f"data.split {options.split!r}: no such rows; splits are {counts_of(report.other_splits)}"
    if report.skipped:
        return f"data: all {len(report.skipped)} rows are broken; the first: {report.skipped[0].reason}"
    if report.left_out or report.pairs_left_out or report.ties_dropped:
        reasons = counts_of(report.left_out + report.pairs_left_out + Counter({"ties": report.ties_dropped}))
        unrated = f"; {report.unrated_line()}" if report.unrated_answers else ""
        return f"data: {options.title}: no row holds a preference ({reasons}{unrated})"
    return "data: all rows have two equal sides (drop_identical)"
