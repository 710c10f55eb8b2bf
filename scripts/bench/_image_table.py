"""The page of shapes_image.py, written from its finished runs."""

import statistics
from collections.abc import Mapping, Sequence

from _image_rounds import ROUNDS_ABOUT, rounds_table
from _image_runs import BASE, Arm, Cell
from _intervals import changes, interval, percent, points, wins

ABOUT = """\
# Objectives on the built-in image model

Every run trains the same 71,680 LoRA weights (rank 8) on the same 600 rendered pairs (filled shapes over
outlines) from the same base, {steps} steps of {batch} pairs unless the row says otherwise. Rates were chosen
on validation prompts. Base and tuned model answer the same 200 held-out prompts from the same noise (10 DDIM
steps, guidance 3).

- *judge*: win rate over the base by the exact judge's score, prompt facts that hold + solidity / 2. *style*:
  win rate by solidity alone. Ties count one half. Brackets are 95 % bootstrap intervals, over prompts and,
  where there are several, seeds (single seeds in parentheses). *over sft*: the judge, against the sft run of
  the same seed.
- *facts*: change of the share of the prompt's facts that hold. *drift*: mean squared difference from the
  base's picture of the same noise, x 1000, pixel values from 0 to 1.
- *passes*: thousands of pictures through the denoiser; one with a gradient counts three. *seconds*: of one
  run's training on the processor.
- *tint* rows prefer a pale blue ground, which no picture of the base's pretraining has, over the grey one of
  the same scene. Their style is how blue the ground is.

{remarks}"""
REMARKS = """\
How far this goes:

- Objectives on pairs with a reference do alike here: the intervals of dpo, dmpo, hinge, ipo, rdpo, alpha_dpo
  and linear_dpo overlap, and rows of one seed cannot rank them. All of them are ahead of sft. dspo in its
  sd15 form is sft, as its beta of 0.05 makes it.
- Rates were tried at 0.0002, 0.0005 and 0.001 for dpo, sft, mapo, kto and dmpo, and at two of these for inpo,
  linear_dpo, dspo and diffusion_orpo (table below; the highest win rate by the judge, then the least drift).
  The others take dpo's, untried, and so do the tint rows. Betas were not tuned.
- A rate of 0.001 takes dpo over an edge: every style comparison won, a fifth of the facts lost.
- kto counts single pictures: a step of 8 holds half as many as a step of 8 pairs.
- MaPO's advantage where the base lacks the preferred style is not reproduced: after 80 steps no objective has
  made the grounds blue (1 is the blue of the pairs). mapo moves furthest and pays with a fifth of the facts;
  sft comes nearly as far for 3 points. In three times the steps at a lower rate dpo is where it was and mapo
  loses 30 points.
- InPO's gain over Diffusion-DPO is not reproduced: it is behind dpo at equal steps and further behind at
  equal passes. Its rate is not the reason: on validation prompts at that rate dpo has 93.0%, inpo 80.5%.
- Inversion-DPO is not reproduced. On the reference's paths (5 steps, no guidance, sign -1; the start is flat
  and is left by rounding) it moves the wrong way and spoils pictures. Along the policy's own paths, from the
  adapter of the sft run, it wins the style and loses a seventh of the facts, where dpo from that adapter
  loses 3 points. In the row at equal passes the inverted paths came from the cache; making them takes 6,000.
- simpo is refused: without a reference the errors of two pictures are not comparable.
- Shuffled labels are no standstill: one of three seeds drifted towards outlines.
- The rows "after sft" and "longer" were added when the others had been read.
"""
HEAD = (
    "| run | lr | steps | judge | judge, over sft | style | style, mean | facts | drift | passes | seconds |"
)


def page(cells: Sequence[Cell], arms: Sequence[Arm], used: str) -> str:
    """The whole page."""
    ran = [c for c in cells if c["split"] == "heldout" and "steps" in c]
    first = ran[0] if ran else {"steps": "?", "batch": "?"}
    about = ABOUT.format(steps=first["steps"], batch=first["batch"], remarks=REMARKS)
    made = f"Made by `scripts/bench/shapes_image.py` on one CPU thread with {used}."
    parts = [about.rstrip(), made, "## Held-out prompts", table(cells, arms)]
    if any(arm.reward and c["run"] == arm.name for arm in arms for c in ran):
        parts += ["## Rounds on the model's own samples", ROUNDS_ABOUT.rstrip(), rounds_table(cells, arms)]
    if any(c["split"] == "validation" for c in cells):
        parts += ["## Learning rates, on 64 validation prompts, one seed", selection(cells)]
    return "\n\n".join(parts) + "\n"


def table(cells: Sequence[Cell], arms: Sequence[Arm]) -> str:
    """One row per run that is there."""
    own = [c for c in cells if c["split"] == "heldout"]
    base = [c for c in own if c["run"] == BASE]
    sft = {c["seed"]: c for c in own if c["run"] == "sft"}
    lines = [HEAD, "|" + "---|" * HEAD.count(" |")]
    for arm in arms:
        runs = sorted((c for c in own if c["run"] == arm.name), key=lambda c: int(c["seed"]))
        if runs and base and arm.reward is None:
            lines.append(_row(arm, runs, base[0], sft))
    return "\n".join(lines)


def _row(arm: Arm, runs: Sequence[Cell], base: Cell, sft: Mapping[int, Cell]) -> str:
    rates = []
    for key in ("score", arm.style):
        won = [wins(run[key], base[key]) for run in runs]
        seeds = "/".join(f"{100 * statistics.fmean(row):.0f}" for row in won)
        rates.append(percent(interval(won)) + (f" ({seeds})" if len(won) > 1 else ""))
    style = f"{statistics.fmean(base[arm.style]):.2f} -> {_mean(runs, arm.style):.2f}"
    facts = points(changes([base["faithfulness"]] * len(runs), [run["faithfulness"] for run in runs]))
    solid = arm.style == "solid"
    over = ""
    if solid and arm.name != "sft" and all(run["seed"] in sft for run in runs):
        over = percent(interval([wins(run["score"], sft[run["seed"]]["score"]) for run in runs]))
    fields = [arm.name, f"{runs[0]['lr']:g}", str(runs[0]["steps"]), rates[0] if solid else "", over]
    fields += [rates[1], style, facts]
    fields += [f"{1000 * _mean(runs, 'drift'):.2f}", f"{runs[0]['passes'] / 1000:.1f}"]
    return f"| {' | '.join([*fields, _seconds(runs)])} |"


def selection(cells: Sequence[Cell]) -> str:
    """Win rate by the judge's score, change of the facts in points and drift, for every rate tried."""
    own = [c for c in cells if c["split"] == "validation"]
    base = [c for c in own if c["run"] == BASE]
    tried = [c for c in own if "steps" in c]
    lines = ["| objective | lr | judge | style | facts, points | drift |", "|---|---|---|---|---|---|"]
    for cell in sorted(tried, key=lambda c: (str(c["run"]), float(c["lr"]))):
        rates = [statistics.fmean(wins(cell[key], base[0][key])) for key in ("score", "solid")]
        facts = 100 * (statistics.fmean(cell["faithfulness"]) - statistics.fmean(base[0]["faithfulness"]))
        moved = 1000 * statistics.fmean(cell["drift"])
        fields = [cell["run"], f"{cell['lr']:g}", *(f"{rate:.1%}" for rate in rates)]
        lines.append(f"| {' | '.join([*fields, f'{facts:+.1f}', f'{moved:.2f}'])} |")
    return "\n".join(lines)


def _mean(runs: Sequence[Cell], key: str) -> float:
    return statistics.fmean(value for run in runs for value in run[key])


def _seconds(runs: Sequence[Cell]) -> str:
    """Of one run, on the processor."""
    return f"{statistics.fmean(run['cpu_seconds'] for run in runs):.0f}"
