"""What was found, in plain lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from mmalign.training.inspection._counts import Leak, Reason, Repeats, Sides, Spread
from mmalign.training.inspection._reading import SourceRead
from mmalign.training.inspection._round import Round
from mmalign.training.inspection._samples import ResponseView, SampleView

if TYPE_CHECKING:
    from mmalign.training.inspection.check import Inspection

OPEN, CLOSE = "⟦", "⟧"  # around what is scored
_LONGER = 0.65  # share of pairs above which length alone tells their sides apart
_MB = 2**20


# ---------------------------------------------------------------- findings and warnings


def reason(one: Reason) -> str:
    """A rule that rows break, as a finding."""
    such = "" if one.count == 1 else "such as "
    return f"{_number(one.count, f'{one.part} row')} cannot be used: {such}{one.example}"


def leak(one: Leak) -> str:
    """Rows of both parts, as a finding."""
    rows, held = "; ".join(one.rows), _number(one.count, "held-out row")
    if one.what == "sample":
        return f"{held} {'is a training row' if one.count == 1 else 'are training rows'} too ({rows})"
    return f"{held} {'has' if one.count == 1 else 'have'} a prompt that training rows have too ({rows})"


def warnings(sides: Sides | None, repeats: Repeats, shortened: Mapping[str, int]) -> list[str]:
    """What does not stop a run but may spoil it."""
    said = [f"{name}: {count}" for name, count in shortened.items()]
    if sides is not None and sides.identical:
        said.append(f"{_number(sides.identical, 'pair')} with two equal sides, which carry no gradient")
    if sides is not None and sides.equal_scores:
        said.append(f"{_number(sides.equal_scores, 'pair')} whose two sides have equal scores")
    lengths = {"longer": sides.chosen_longer, "shorter": sides.chosen_shorter} if sides is not None else {}
    for how, count in lengths.items():
        if sides is not None and count is not None and count > _LONGER * sides.pairs:
            share = f"in {count / sides.pairs:.0%} of the pairs"
            said.append(f"{share} the chosen response is the {how} one: length may be learnt")
    if repeats.conflicts:
        rows = ", ".join(repeats.conflict_rows)
        said.append(
            f"{_number(repeats.conflicts, 'row')} contradict each other: same content, both ways ({rows})"
        )
    if repeats.samples:
        said.append(f"{_number(repeats.samples, 'row')} with the same content as another")
    return said


# ---------------------------------------------------------------- rows


def source_lines(notes: Sequence[str], sources: Sequence[SourceRead]) -> list[str]:
    """Notes on the config, and what the sources hold."""
    lines = [*notes, "What was read"]
    for one in sources:
        given = "" if one.kept == one.sound else f", giving {_number(one.kept, 'sample')}"
        rows = f"{_number(one.rows, 'row')}, {one.sound} of sound form{given}"
        lines.append(f"  {one.part}: {one.title}, {rows}")
        lines += [f"    {line.removeprefix('data: ')}" for line in one.lines]
    return lines


def row_lines(found: Inspection) -> list[str]:
    """Rows that cannot be used, token budget, repeats and leaks."""
    usable = ", ".join(f"{count} {part}" for part, count in found.usable.items()) or "none"
    lines = ["", "Rows", f"  can be used: {usable}"]
    for one in found.reasons:
        lines += [f"  {one.count:>6}  {one.part}: {one.example}", f"          rows: {', '.join(one.rows)}"]
    limit = "no limit" if found.limit is None else f"limit {found.limit}"
    lines += ["", f"Tokens of a row, as the model gets them ({limit})", *_table(found.tokens)]
    lines += [f"  {name}: {count}" for name, count in found.shortened.items()]
    if found.media:
        lines += ["", "Pictures and clips, as they come", *_table(found.media)]
    return [*lines, "", "Pairs and repeats (training)", *_pair_lines(found), *_split_lines(found)]


def _table(spreads: Sequence[Spread]) -> list[str]:
    if not spreads:
        return ["  none"]
    width = max(len(one.what) for one in spreads)
    lines = [f"  {'':{width}}  {'':10}{'min':>7}{'median':>8}{'95 %':>7}{'max':>7}{'rows':>8}"]
    for one in spreads:
        numbers = f"{one.minimum:>7}{one.median:>8}{one.p95:>7}{one.maximum:>7}{one.count:>8}"
        lines.append(f"  {one.what:{width}}  {one.kind:10}{numbers}")
    return lines


def _pair_lines(found: Inspection) -> list[str]:
    lines, sides, repeats = [f"  ties by label: {found.ties}"], found.sides, found.repeats
    if sides is not None:
        lines.append(
            f"  pairs: {sides.pairs}; equal sides {sides.identical}, equal scores {sides.equal_scores}"
        )
        if sides.chosen_longer is not None:
            share = sides.chosen_longer / sides.pairs
            fewer = f"fewer: {sides.chosen_shorter} ({(sides.chosen_shorter or 0) / sides.pairs:.0%})"
            lines.append(
                f"  chosen has more tokens than rejected: {sides.chosen_longer} ({share:.0%}); {fewer}"
            )
    once = " (pairs of one row count once)" if any(one.kept > one.rows for one in found.sources) else ""
    lines.append(f"  rows with a prompt that other rows have too: {repeats.prompts}{once}")
    lines.append(f"  rows with the same content as another: {repeats.samples}")
    return [*lines, f"  rows that contradict another: {repeats.conflicts}"]


def _split_lines(found: Inspection) -> list[str]:
    if not found.usable.get("held-out"):
        return []
    counted = {one.what: one for one in found.leaks}
    lines = ["", "Between the splits"]
    for what in ("sample", "prompt"):
        one = counted.get(what)
        rows = f": {'; '.join(one.rows)}" if one else ""
        lines.append(f"  held-out rows whose {what} is in training: {one.count if one else 0}{rows}")
    return lines


# ---------------------------------------------------------------- samples


def sample_lines(samples: Sequence[SampleView]) -> list[str]:
    """The samples that training begins with, role by role."""
    shown = f"{_number(len(samples), 'sample')} that training begins with, as the model sees them"
    lines = ["", f"{shown}; {OPEN}scored{CLOSE}"]
    for one in samples:
        labels = "".join(f", {name} {value}" for name, value in one.labels.items())
        lines.append(f"  sample {one.id} ({one.origin}), weight {one.weight:g}{labels}")
        for response in one.responses:
            lines += [f"    {line}" for line in response_lines(response)]
    return lines


def response_lines(one: ResponseView) -> list[str]:
    """One response: its role and tokens, its text, its media."""
    counts = ", ".join(f"{count} {kind}" for kind, count in one.counts.items())
    place = f"[{one.slot}]" if one.slot else ""
    marked = f"{OPEN}{one.scored}{CLOSE}" if one.scored else ""
    text = printable(one.text + marked)
    return [
        f"{one.role}{place}: {counts}",
        *(f"  | {line}" for line in text.split("\n")),
        *map(_indented, one.media),
    ]


def _indented(line: str) -> str:
    return f"  {line}"


def printable(text: str) -> str:
    """The text with control characters written out, so that data cannot steer a terminal."""
    return "".join(c if c == "\n" or c.isprintable() else repr(c)[1:-1] for c in text)


# ---------------------------------------------------------------- the step, and the end


def round_lines(one: Round | None) -> list[str]:
    """What a small round gave."""
    if one is None:
        return []
    judged = f"{_number(one.answers, 'answer')} to {_number(one.prompts, 'prompt')} sampled and judged"
    if not one.answers:
        judged = f"{_number(one.prompts, 'pair')} of the data"
    lines = ["", f"A small round: {judged}, which make {_number(one.samples, 'sample')}"]
    if one.answers:
        lines.append(f"  scores from {one.lowest:.4g} to {one.highest:.4g}, mean {one.mean:.4g}")
    lines += [f"  left out ({reason}): {count}" for reason, count in sorted(one.left_out.items())]
    whole = f"a round of {_number(one.whole_prompts, 'prompt')}, for {_number(one.steps, 'step')}"
    return [*lines, f"  {one.seconds:.2f} s; {whole}, takes about {one.round_seconds:.1f} s"]


def trial_lines(found: Inspection) -> list[str]:
    """What one step gave."""
    one = found.trial
    if one is None:
        return []
    lines = ["", f"One step of {_number(one.samples, 'sample')}, no weight changed"]
    if one.expected_loss is None:
        lines.append(f"  loss {one.loss:.4f}")
    else:
        expected = f"{one.expected_loss:.4f}{_in_ln_2(one.expected_loss)}"
        lines.append(f"  loss {one.loss:.4f}; a policy equal to its reference has {expected}")
    if one.reward_margin is not None:
        lines.append(f"  reward margin {one.reward_margin:.4g}")
    lines.append(f"  gradient norm {one.gradient_norm:.4g}")
    lines.append(f"  weights that train {one.trainable:,} of {one.weights:,}")
    memory = f"{one.peak_bytes / _MB:,.0f} MB"
    lines.append(f"  peak memory {memory}; the optimizer adds {one.optimizer_bytes / _MB:,.0f} MB")
    speed = f"{one.step_seconds:.2f} s forward and backward, {one.load_seconds:.2f} s to load and encode"
    lines.append(f"  {speed}")
    if found.round is not None and found.round.batch > one.samples:
        seconds = one.step_seconds * found.round.batch / one.samples
        lines.append(f"  a whole step, of {found.round.batch} samples, takes about {seconds:.1f} s")
    return [*lines, *(f"  {note}" for note in one.notes)]


def _in_ln_2(value: float) -> str:
    """What sigmoid losses of ratios start at: ln 2 for each of their terms."""
    terms = round(value / math.log(2))
    if terms < 1 or not math.isclose(value, terms * math.log(2), rel_tol=1e-5):
        return ""
    return " = ln 2" if terms == 1 else f" = {terms} ln 2"


def closing_lines(found: Inspection) -> list[str]:
    """Warnings, then findings with their number."""
    lines = [""]
    if found.warnings:
        lines += [f"{_number(len(found.warnings), 'warning')}:", *(f"  {one}" for one in found.warnings)]
    if not found.findings:
        return [*lines, "no findings: every row can be used"]
    return [*lines, f"{_number(len(found.findings), 'finding')}:", *(f"  {one}" for one in found.findings)]


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
