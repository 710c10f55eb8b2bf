"""All rows of a config's sources; a row that cannot be used is named, and the next one is read."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mmalign.config import RunConfig
from mmalign.data._digest import digest
from mmalign.data._first_pass import beside_prompts, clashes, no_pair, only_prompts, unpair
from mmalign.data._sources import LoadedData, Skipped, load
from mmalign.training._held_prompts import held_out
from mmalign.training.rows import Pool, balanced_pools, heldout_sources, row_roles, wanted_roles
from mmalign.types import PreferenceSample, UserError

Part = Literal["training", "held-out"]


@dataclass(frozen=True)
class Fault:
    """A row that cannot be used, and why."""

    part: Part
    row: Skipped


@dataclass(frozen=True)
class SourceRead:
    """What was found in one source: its rows, those of sound form, the samples that these give, plain lines
    on the others, and what may spoil a run."""

    title: str
    part: Part
    rows: int
    sound: int
    kept: int
    lines: tuple[str, ...]
    warnings: tuple[str, ...] = ()


@dataclass
class Reading:
    """Rows of sound form, one pool per source, and what is wrong with the others."""

    sources: list[SourceRead]
    pools: list[Pool]
    heldout: list[Pool]
    hash: str
    faults: list[Fault] = field(default_factory=list)
    ties: int = 0
    notes: list[str] = field(default_factory=list)

    def parts(self) -> list[tuple[Part, Pool]]:
        """Every pool with the part of the data it is."""
        training: list[tuple[Part, Pool]] = [("training", pool) for pool in self.pools]
        return [*training, *(("held-out", pool) for pool in self.heldout)]

    def leave_out(self, part: Part, pool: Pool, rows: list[Skipped]) -> None:
        """Take rows out of a pool and note them as faults."""
        gone = {row.id for row in rows}
        pool.samples = [sample for sample in pool.samples if sample.id not in gone]
        self.faults += [Fault(part, row) for row in rows]


def read(config: RunConfig) -> Reading:
    """Read every source. Raises UserError only for what no single row is to blame for, such as a file that
    is not there."""
    reading = Reading([], [], [], "")
    sources, pools, heldout = reading.sources, reading.pools, reading.heldout
    wanted, hashes = wanted_roles(config), []
    alone = config.online is not None and config.online.data_alone
    prompts, mixed = "prompt" in wanted, len(wanted) > 1 and "prompt" in wanted
    for weight, source in config.data:
        found = load(source, every_fault=True, prompts=prompts and not mixed)
        hashes.append(found.report.data_hash)
        sources.append(_described(config, source, "training", found))
        pools.append(Pool(found.samples, source, weight))
        reading.faults += [Fault("training", row) for row in found.report.skipped]
        reading.ties += found.report.ties
    for source, which in heldout_sources(config):
        found = load(source, which, every_fault=True, prompts=prompts)
        heldout.append(Pool(found.samples, source))
        if which == "train":  # a file of its own; else its rows were counted above
            sources.append(_described(config, source, "held-out", found))
            reading.faults += [Fault("held-out", row) for row in found.report.skipped]
            reading.ties += found.report.ties
    reading.hash = digest(hashes)
    if "completion" in wanted:
        for part, pool in reading.parts():
            _split_pairs(reading, part, pool)
    if prompts:
        for part, pool in reading.parts():
            told: list[str] = []
            if mixed and part == "training":
                odd = [(one, no_pair(one)) for one in pool.samples]
                reading.leave_out(part, pool, [Skipped(o.id, o.origin, why) for o, why in odd if why])
                pool.samples = beside_prompts(pool.samples, told, alone)
            elif part == "held-out":
                pool.samples = held_out(pool.samples, config, row_roles(config), told)
            else:
                pool.samples = only_prompts(pool.samples, told)
            reading.notes += [
                f"{part}: {line.removeprefix('held-out ').removeprefix('data: ')}" for line in told
            ]
    balanced_pools(reading.pools, [])  # refuses a positive_ratio that the rows cannot give
    _leave_out_clashes(reading, config)
    return reading


def _described(config: RunConfig, source: Any, part: Part, found: LoadedData) -> SourceRead:
    title = found.report.title if found.report.title != "the source" else type(source).__name__
    report = replace(found.report, title=title, skipped=[])  # broken rows are told apart by reason, later
    known = tuple(f"data: {report.kept} {word} {report.rows} " for word in ("of", "samples from"))
    lines = [line for line in report.lines() if not line.startswith(known)]
    sound = report.rows - len(found.report.skipped)
    said = [f"{part}: {report.reversed_line()}"] if report.reversed_scores else []
    if (unseeing := report.unseeing_line(config.model.media)) is not None:
        said.append(f"{part}: {unseeing}")
    return SourceRead(title, part, report.rows, sound, report.kept, tuple(lines), tuple(said))


def _split_pairs(reading: Reading, part: Part, pool: Pool) -> None:
    """Pairs as labelled single responses, where the objective takes those."""

    def fits(sample: PreferenceSample) -> bool:
        return "completion" in sample.examples or {"chosen", "rejected"} <= set(sample.examples)

    odd = [sample for sample in pool.samples if not fits(sample)]
    reading.leave_out(part, pool, [Skipped(one.id, one.origin, _refusal(one)) for one in odd])
    if any("completion" not in sample.examples for sample in pool.samples):
        pool.samples = unpair(pool.samples).samples


def _refusal(sample: PreferenceSample) -> str:
    try:
        unpair([sample])
    except UserError as error:
        return str(error)
    raise AssertionError("a sample that fits was to be refused")


def _leave_out_clashes(reading: Reading, config: RunConfig) -> None:
    """An id of two sources; a held-out file of its own may repeat ids."""
    places = reading.parts() if config.heldout is None else [("training", p) for p in reading.pools]
    found: dict[int, list[Skipped]] = {}
    for number, row in clashes([pool.samples for _, pool in places]):
        found.setdefault(number, []).append(row)
    for number, rows in found.items():
        reading.leave_out(*places[number], rows)
