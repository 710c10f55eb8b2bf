"""Everything that can be known of a run before it is trained, in one pass; nothing is written."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory

from accelerate import Accelerator

from mmalign.config import RunConfig
from mmalign.training.checks import check_config, check_output, glance_at
from mmalign.training.console import Console
from mmalign.training.inspection import _counts as counts
from mmalign.training.inspection import _text as text
from mmalign.training.inspection._look import Seen, look
from mmalign.training.inspection._reading import Reading, SourceRead, read
from mmalign.training.inspection._round import Round, sample_round, small
from mmalign.training.inspection._samples import SampleView, first_samples
from mmalign.training.inspection._trial import Trial, try_step
from mmalign.training.online import OnlineData
from mmalign.training.rows import RunData
from mmalign.training.setup import build_policy, start
from mmalign.types import Adapter, UserError

Tell = Callable[[Sequence[str]], None]  # hears of every section as soon as it is known


@dataclass(frozen=True)
class Inspection:
    """What `mmalign check` found. `notes` are about the config; `findings` must be put right before the run
    does what its config says; `warnings` are for the user to judge. `trial` is None without a step, `round`
    where the rows of the data are trained on. With rounds, rows are prompts."""

    notes: tuple[str, ...]
    sources: tuple[SourceRead, ...]
    usable: Mapping[str, int]
    reasons: tuple[counts.Reason, ...]
    shortened: Mapping[str, int]
    tokens: tuple[counts.Spread, ...]
    limit: int | None
    media: tuple[counts.Spread, ...]
    ties: int
    sides: counts.Sides | None
    repeats: counts.Repeats
    leaks: tuple[counts.Leak, ...]
    samples: tuple[SampleView, ...]
    round: Round | None
    trial: Trial | None
    warnings: tuple[str, ...]
    findings: tuple[str, ...]

    @property
    def sound(self) -> bool:
        """True if there are no findings."""
        return not self.findings


def inspect(config: RunConfig, tell: Tell = lambda lines: None) -> Inspection:
    """Read all rows of a config and try its first step without changing a weight; of rounds, a small one.

    Raises UserError for a config that cannot be run whatever its rows are, and for a model that cannot be
    loaded. Rows that cannot be used and rows of both splits are findings.
    """

    def say(lines: Sequence[str]) -> None:
        tell([text.printable(line) for line in lines])

    notes = check_config(config)
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        raise UserError(f"check: runs in one process, not in {processes}; start it without a launcher")
    glance_at(config.model)
    accelerator, world = start()
    reading = read(config)
    say([*text.source_lines(notes, reading.sources), *(f"  {line}" for line in reading.notes)])
    adapter = build_policy(config, world.device)
    seen = look(reading, adapter, config)
    data = RunData(reading.pools, [], world, reading.hash)
    if config.online is not None:
        data = OnlineData.of(data, Console(world, progress=False, quiet=True))
    found = _counted(reading, seen, notes)
    few = _too_few(data, config, bool(reading.faults))
    taken = _output_taken(config)
    found = replace(found, findings=(*found.findings, *few, *taken))
    say(text.row_lines(found))
    if not few:
        with TemporaryDirectory() as folder:
            tried = config
            if isinstance(data, OnlineData):
                tried = small(config, folder)
                found = _with_round(found, (tried, config), adapter, data)
                say(text.round_lines(found.round))
            if config.online is None or found.round is not None:
                found = replace(found, samples=first_samples(data, adapter, tried))
                say(text.sample_lines(found.samples))
                found = _tried(found, tried, accelerator, adapter, data)
                say(text.trial_lines(found))
    say(text.closing_lines(found))
    return found


def _counted(reading: Reading, seen: Sequence[Seen], notes: Sequence[str]) -> Inspection:
    training = [one for one in seen if one.part == "training"]
    reasons, leaks = counts.group_faults(reading.faults), counts.leaks(seen)
    sides, repeats = counts.sides(training), counts.repeats(training)
    shortened = counts.shortened(seen)
    limits = [row.limit for one in seen for row in one.facts.rows if row.limit is not None]
    return Inspection(
        notes=tuple(notes),
        sources=tuple(reading.sources),
        usable=Counter(one.part for one in seen),
        reasons=reasons,
        shortened=shortened,
        tokens=counts.token_spreads(seen),
        limit=max(limits, default=None),
        media=counts.media_spreads(seen),
        ties=reading.ties,
        sides=sides,
        repeats=repeats,
        leaks=leaks,
        samples=(),
        round=None,
        trial=None,
        warnings=(
            *(line for source in reading.sources for line in source.warnings),
            *text.warnings(sides, repeats, shortened),
        ),
        findings=(*map(text.reason, reasons), *map(text.leak, leaks)),
    )


def _too_few(data: RunData, config: RunConfig, broken: bool) -> tuple[str, ...]:
    """Why no step can be made of the rows that are left."""
    try:
        data.order(config)
    except UserError as error:
        left = "without the rows that cannot be used, " if broken else ""
        return (f"{left}no step can be made: {error}",)
    return ()


def _output_taken(config: RunConfig) -> tuple[str, ...]:
    try:
        check_output(config)
    except UserError as error:
        return (str(error),)
    return ()


def _with_round(
    found: Inspection, configs: tuple[RunConfig, RunConfig], adapter: Adapter, data: OnlineData
) -> Inspection:
    """`configs`: that of the small round, and the whole one."""
    try:
        return replace(found, round=sample_round(*configs, adapter, data))
    except RuntimeError as error:  # answers that do not make a step, or memory that is not enough
        reason = " ".join(str(error).split())[:300]
        return replace(found, findings=(*found.findings, f"the first round fails: {reason}"))


def _tried(
    found: Inspection, config: RunConfig, accelerator: Accelerator, adapter: Adapter, data: RunData
) -> Inspection:
    try:
        trial = try_step(config, accelerator, adapter, data)
    except RuntimeError as error:  # a starting check that fails, or memory that is not enough
        reason = " ".join(str(error).split())[:300]
        return replace(found, findings=(*found.findings, f"the first step fails: {reason}"))
    if math.isfinite(trial.loss) and math.isfinite(trial.gradient_norm):
        return replace(found, trial=trial)
    odd = f"the first step gives loss {trial.loss} and gradient norm {trial.gradient_norm}"
    return replace(found, trial=trial, findings=(*found.findings, odd))
