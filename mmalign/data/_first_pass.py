"""Before the first step: what the objective requires, the first check of every row, unpairing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Generic, Literal, TypeVar

from mmalign.clips import Frames
from mmalign.data._digest import digest
from mmalign.data._media import decode, most_videos
from mmalign.data._sources import Skipped
from mmalign.data._workers import LostWorker, run_jobs
from mmalign.types import Example, PreferenceSample, UserError

# Rows of one job: large enough to hide the cost of a message, small enough to spread the work.
_CHUNK = 16

Finding = TypeVar("Finding")  # what a check says of a sound row, such as what is shortened in it


@dataclass(frozen=True)
class FirstPass:
    """Samples that can be used and those that were left out."""

    kept: list[PreferenceSample]
    skipped: list[Skipped] = field(default_factory=list)
    shortened: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """Plain lines for the log; empty if nothing was left out or shortened."""
        lines = [f"data: {name}: {count}" for name, count in sorted(self.shortened.items())]
        if not self.skipped:
            return lines
        total = len(self.kept) + len(self.skipped)
        share = 100 * len(self.skipped) / total
        note = "; that is more than 1 %, so look at the data" if share > 1 else ""
        first = self.skipped[0].reason
        left_out = f"data: {len(self.skipped)} of {total} rows left out ({share:.1f} %){note}"
        return [*lines, f"{left_out}; the first: {first}"]


@dataclass(frozen=True)
class _Check(Generic[Finding]):
    """The check of one chunk of rows; `lost` says why some are not tried again. A class, so that it can be
    sent to workers where processes cannot be forked."""

    samples: Sequence[PreferenceSample]
    check: Callable[[PreferenceSample], Sequence[Finding]]
    on_error: str
    frames: Frames | None
    chunk: int
    lost: Mapping[str, str]

    def __call__(self, number: int) -> list[tuple[Finding, ...] | str]:
        found: list[tuple[Finding, ...] | str] = []
        for sample in self.samples[number * self.chunk : (number + 1) * self.chunk]:
            if self.lost and (reason := self.lost.get(digest(sample.id))) is not None:
                found.append(reason)
                continue
            try:
                found.append(tuple(self.check(decode(sample, self.frames))))
            except UserError as error:
                if self.on_error == "stop":
                    raise
                found.append(str(error))
        return found

    def describe(self, number: int) -> str:
        """The rows of a job in words."""
        first = self.samples[number * self.chunk].origin
        return first if self.chunk == 1 else f"{first} and the rows after it"


def outcomes(
    samples: Sequence[PreferenceSample],
    check: Callable[[PreferenceSample], Sequence[Finding]],
    on_error: Literal["stop", "skip"] = "stop",
    workers: int = 0,
    timeout_s: float = 300.0,
    frames: Frames | None = None,
) -> Iterator[tuple[Finding, ...] | str]:
    """What the check says of each sample once it is decoded, in order, or the reason against a broken row.

    Videos are decoded in at least one worker process, and a row that hangs there or crashes it is a broken
    row like any other: the worker is replaced and the row not tried again. Under "stop" the first broken row
    is raised as a UserError, one that is lost as soon as it is met.
    """
    chunk = _CHUNK
    if frames is not None and (videos := most_videos(samples)):
        chunk, workers, timeout_s = 1, max(1, workers), timeout_s + videos * frames.timeout_s
    lost: dict[str, str] = {}
    start, count = 0, -(-len(samples) // chunk)
    while start < count:
        job = _Check(samples, check, on_error, frames, chunk, lost)
        with closing(run_jobs(job, range(start, count), workers, timeout_s, job.describe)) as results:
            try:
                for found in results:
                    yield from found
                    start += 1
            except LostWorker as error:
                if on_error == "stop" or error.key in lost:
                    raise
                lost[error.key] = str(error)


def first_pass(
    samples: Sequence[PreferenceSample],
    check: Callable[[PreferenceSample], Sequence[str]],
    on_error: Literal["stop", "skip"] = "stop",
    workers: int = 0,
    timeout_s: float = 300.0,
    frames: Frames | None = None,
) -> FirstPass:
    """Decode every sample once and hand it to `check`, which raises UserError if it cannot be used.

    `frames` says how clips are cut from videos (None: videos are refused). Under "stop" the first error in
    file order is raised; under "skip" broken rows are left out and listed, and only data without a usable row
    is an error. The decoded media are not kept. Videos as in `outcomes`.
    """
    results = outcomes(samples, check, on_error, workers, timeout_s, frames)
    kept, skipped = [], []
    shortened: Counter[str] = Counter()
    for sample, reason in zip(samples, results, strict=True):
        if isinstance(reason, tuple):
            kept.append(sample)
            shortened.update(reason)
        else:
            skipped.append(Skipped(sample.id, sample.origin, reason))
    if not kept:
        first = f"; the first: {skipped[0].reason}" if skipped else ""
        raise UserError(f"data: no usable row in {len(samples)}{first}")
    return FirstPass(kept, skipped, shortened)


def require_unique(pools: Sequence[Sequence[PreferenceSample]]) -> None:
    """Raise UserError if an id occurs in more than one source: seeds and caches go by id."""
    for _, repeated in clashes(pools):
        raise UserError(repeated.reason)


def clashes(pools: Sequence[Sequence[PreferenceSample]]) -> Iterator[tuple[int, Skipped]]:
    """Samples whose id an earlier pool has too, each with the number of its own pool."""
    origins: dict[str, str] = {}
    for number, pool in enumerate(pools):
        for sample in pool:
            if (other := origins.get(sample.id)) is not None:
                reason = f"{sample.origin}: id {sample.id!r} is also that of {other}, another source"
                yield number, Skipped(sample.id, sample.origin, reason)
            origins.setdefault(sample.id, sample.origin)


def require(samples: Sequence[PreferenceSample], roles: Sequence[str], fields: Sequence[str]) -> None:
    """Raise UserError naming the first row that lacks a role or a label which the objective needs.

    A label may stand on the sample or on every response of the roles.
    """
    for sample in samples:
        for role in roles:
            if role not in sample.examples:
                has = ", ".join(sample.examples)
                hint = "; data.pairs makes pairs of lists" if "responses" in sample.examples else ""
                rule = f"the objective needs the role {role!r}; the row has {has}{hint}"
                raise UserError(f"{sample.origin}: {rule}")
        for name in fields:
            examples = [example for role in roles for example in sample.examples[role]]
            if name not in sample.labels and not all(name in example.labels for example in examples):
                raise UserError(f"{sample.origin}: the objective needs the label {name!r}, which is missing")


@dataclass(frozen=True)
class Unpaired:
    """Labelled single responses made from pairs, with what was counted on the way."""

    samples: list[PreferenceSample]
    pairs: int
    ties: int

    def lines(self) -> list[str]:
        """Plain lines for the log."""
        lines = [f"data: split {self.pairs} pairs into {2 * self.pairs} labelled responses"]
        if self.ties:
            lines.append(f"data: {self.ties} tied pairs left out: neither side is good or bad")
        return lines


def unpair(samples: Sequence[PreferenceSample]) -> Unpaired:
    """Every pair as two samples with the role "completion" and label binary 1.0 (chosen) or 0.0 (rejected).

    Labels that compare the two sides (margin, tie, segments) and spans have no meaning for one side and are
    left out. Samples that have the role already pass through; ties are counted and left out.
    """
    found: list[PreferenceSample] = []
    pairs = ties = 0
    for sample in samples:
        if "completion" in sample.examples:
            found.append(sample)
            continue
        if not {"chosen", "rejected"} <= set(sample.examples):
            raise UserError(f"{sample.origin}: neither a pair nor a labelled completion")
        if sample.labels.get("tie"):
            ties += 1
            continue
        pairs += 1
        compared = ("margin", "tie", "spans", "segments")
        labels = {key: value for key, value in sample.labels.items() if key not in compared}
        for role, binary in (("chosen", 1.0), ("rejected", 0.0)):
            examples = {"completion": sample.examples[role]}
            own = {**labels, "binary": binary}
            found.append(replace(sample, id=f"{sample.id}/{role}", examples=examples, labels=own))
    if not found:
        raise UserError("data: all pairs are ties; nothing is left to label")
    return Unpaired(found, pairs, ties)


def beside_prompts(
    samples: Sequence[PreferenceSample], notes: list[str], all_train: bool
) -> list[PreferenceSample]:
    """The same pairs, each with its chosen side's prompt as the role "prompt". `all_train`: whether `notes`
    are told that no pair is there for its prompt alone. Raises UserError for another row."""
    found = []
    for sample in samples:
        if (reason := no_pair(sample)) is not None:
            raise UserError(reason)
        prompt = Example(sample.examples["chosen"][0].prompt, ())
        found.append(replace(sample, examples={**sample.examples, "prompt": (prompt,)}))
    use = "all to train on" if all_train else "some to train on and some for their prompts"
    notes.append(f"data: {len(found)} pairs, {use}")
    return found


def no_pair(sample: PreferenceSample) -> str | None:
    """Why a row cannot train as it is beside what is sampled; None if it can."""
    if {"chosen", "rejected"} <= set(sample.examples):
        return None
    return f"{sample.origin}: has no chosen and rejected, which online.offline trains on; add them"


def only_prompts(samples: Sequence[PreferenceSample], notes: list[str]) -> list[PreferenceSample]:
    """One sample per distinct prompt, with the role "prompt" alone and its text as the label `caption`; what
    was answered is left out, and `notes` says so."""
    found: dict[str, PreferenceSample] = {}
    for sample in samples:
        prompt = next(iter(sample.examples.values()))[0].prompt
        key = digest(prompt)
        if key not in found:
            text = " ".join(p.data for turn in prompt for p in turn.parts if p.kind == "text")
            examples = {"prompt": (Example(prompt, ()),)}
            found[key] = replace(sample, examples=examples, labels={"caption": text}, weight=1.0)
    answered = "; answers are not read" if any("prompt" not in one.examples for one in samples) else ""
    notes.append(f"data: {len(found)} different prompts of {len(samples)} rows{answered}")
    return list(found.values())
