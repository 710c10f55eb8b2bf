"""The part of the page of shapes_image.py on runs that train in rounds on the model's own samples."""

import statistics
from collections.abc import Sequence

from _image_runs import NOISY, Arm, Cell
from _intervals import interval, percent, points, wins

ROUNDS_ABOUT = """\
Here the 600 rows give prompts alone: the model answers them, a judge scores its pictures, and it trains on
these, 32 pictures to a step. The judge is the world's exact one or, in the *light* rows, the mean brightness
of the pixels. Both models answer the 200 held-out prompts by the sampler that training samples with (10 DDIM
steps with eta 1, guidance 3), on the same noise.

- *reward*: its mean before and after; *change* and *better* (share of the prompts whose picture is better,
  ties one half) with 95 % bootstrap intervals over prompts. *judged*: scores that the run asked for. Of the
  first and the last tenth of the rounds the means are over other prompts each.
- One seed a row. The rate of ddpo was tried once (+0.023 of brightness in 15 steps, on 96 validation prompts)
  and taken over for d3po by the size of its gradient; none was tuned. A round is one step here, so that the
  ratios of ddpo are 1 and its clip never holds; wider clips and more steps to a round were not tried.
- dpo rounds, at the rate of the pairs (eight of its steps are warm-up), have hardly left the base.
- ddpo with all steps of the path gains half as much and moves further: at the same rate its gradient is about
  six times as long, nearly all of the rest chance.
- Not run yet: the rows of these objectives under the world's exact judge, and spo.
- Why the configs leave out the last steps of the path (`above: 0.45`) and keep AdamW from dividing by the
  gradients (`eps` far above them): path_gradient.md. With all steps, AdamW's usual eps, a rate of 0.003 and
  the saturation of the pixels as reward, 42 steps of 16 pictures gained nothing (-0.001 +- 0.003) and lost 4
  points of the facts.
"""
HEAD = (
    "| run | lr | steps | judged | reward | change | better | facts | first and last tenth of the rounds "
    "| drift | passes | seconds |"
)


def rounds_table(cells: Sequence[Cell], arms: Sequence[Arm]) -> str:
    """One row per run that is there: mean reward on held-out prompts before and after, and what it took."""
    own = [c for c in cells if c["split"] == "heldout"]
    base = next((c for c in own if c["run"] == NOISY), None)
    lines = [HEAD, "|" + "---|" * HEAD.count(" |")]
    for arm in arms:
        runs = sorted((c for c in own if c["run"] == arm.name), key=lambda c: int(c["seed"]))
        if runs and base and arm.reward is not None:
            lines.append(_row(arm.reward, runs, base))
    return "\n".join(lines)


def _row(reward: str, runs: Sequence[Cell], base: Cell) -> str:
    """Intervals are over prompts and, where there are several, seeds."""
    old = base[reward]
    gained = interval([[a - b for a, b in zip(run[reward], old, strict=True)] for run in runs])
    facts = [
        [100 * (a - b) for a, b in zip(run["faithfulness"], base["faithfulness"], strict=True)]
        for run in runs
    ]
    after = statistics.fmean(value for run in runs for value in run[reward])
    first = statistics.fmean(run["rounds"][0] for run in runs)
    last = statistics.fmean(run["rounds"][-1] for run in runs)
    made = runs[0]
    fields = [made["run"], f"{made['lr']:g}", str(made["steps"]), str(made["judged"])]
    fields += [f"{statistics.fmean(old):.3f} -> {after:.3f}"]
    fields += [f"{gained[0]:+.3f} [{gained[1]:+.3f}, {gained[2]:+.3f}]"]
    fields += [percent(interval([wins(run[reward], old) for run in runs])), points(interval(facts))]
    fields += [f"{first:.3f} -> {last:.3f}"]
    drift = 1000 * statistics.fmean(value for run in runs for value in run["drift"])
    seconds = statistics.fmean(run["cpu_seconds"] for run in runs)
    fields += [f"{drift:.2f}", f"{made['passes'] / 1000:.1f}", f"{seconds:.0f}"]
    return f"| {' | '.join(fields)} |"
