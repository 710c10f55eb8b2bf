"""The verbs of the command line as functions, for scripts and notebooks."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mmalign import config as configs
from mmalign.config import RunConfig
from mmalign.types import Judge, Message, Part, UserError, derive_seed

HELDOUT_PROMPTS = 64
"""So many prompts of held-out rows are answered where nothing else is said."""

if TYPE_CHECKING:
    from mmalign.builders._config import BuildConfig
    from mmalign.evaluation.comparison import Comparison, Groups
    from mmalign.metrics._measured import Measured
    from mmalign.metrics._seam import Metric
    from mmalign.training.finished import FinishedRun
    from mmalign.training.inspection.check import Inspection


def load_config(path: str | Path, *overrides: str) -> RunConfig:
    """A config file with `section.field=value` overrides; it may name your own package.module:Class."""
    return configs.load(path, _checked(overrides), allow_code=True)


def _checked(overrides: Sequence[object]) -> list[str]:
    if not all(isinstance(one, str) for one in overrides):
        raise UserError(
            "overrides: give each as a string of its own, load_config(path, 'train.steps=5', ...)"
        )
    return [str(one) for one in overrides]


def train(config: str | Path | RunConfig, *overrides: str) -> Path:
    """Train as a config says and write the report; returns the run folder. Goes on where it once stopped."""
    if isinstance(config, RunConfig) and overrides:
        raise UserError("overrides apply to a config file; use dataclasses.replace on a RunConfig")
    notes: list[str] = []
    if isinstance(config, RunConfig):
        resolved = config
    else:
        resolved = configs.load(config, _checked(overrides), allow_code=True, notes=notes)
    from mmalign.training.checks import check_config, check_output

    check_config(resolved, int(os.environ.get("WORLD_SIZE", "1")))  # before anything heavy is imported
    check_output(resolved)
    for line in notes:  # only now: a refusal is one line
        print(line, file=sys.stderr)
    from mmalign.training.run import run

    folder = run(resolved)
    if _is_main():
        write_report(folder)
    return folder


def check(
    config: str | Path | RunConfig,
    *overrides: str,
    output: str | Path | None = None,
    tell: Callable[[Sequence[str]], None] | None = None,
) -> Inspection:
    """Read all rows of a config and try its first step without training. Nothing is written, except with
    `output`, an absent or empty folder: report.json and the first samples. `tell` hears of every section, in
    plain lines, as soon as it is known."""
    if isinstance(config, RunConfig) and overrides:
        raise UserError("overrides apply to a config file; use dataclasses.replace on a RunConfig")
    resolved = config if isinstance(config, RunConfig) else load_config(config, *overrides)
    from mmalign.training.checks import check_config

    check_config(resolved)  # before anything heavy is imported
    from mmalign.training.inspection import files
    from mmalign.training.inspection.check import inspect

    if output is not None:
        files.refuse_taken(Path(output))
    found = inspect(resolved, tell or (lambda lines: None))
    if output is not None:
        files.write(found, Path(output))
    return found


def build(config: str | Path | BuildConfig, *overrides: str, allow_code: bool = False) -> Path:
    """Make preference pairs from a model's own samples as a build's config says; returns the output folder,
    with pairs.jsonl in it. Goes on where it once stopped. `allow_code`: as for `open_run`, of the run that
    the config may name."""
    from mmalign.builders import _config as build_configs
    from mmalign.builders._output import check_output

    if not isinstance(config, str | Path):
        if overrides:
            raise UserError("overrides apply to a config file; use dataclasses.replace on a BuildConfig")
        resolved = config
    else:
        resolved = build_configs.load(config, _checked(overrides), allow_code=True)
    check_output(resolved)  # before anything heavy is imported
    from mmalign.builders import _run
    from mmalign.training.setup import start

    return _run.build(resolved, start()[1], allow_code)


def _is_main() -> bool:
    import torch.distributed as dist

    return not dist.is_initialized() or dist.get_rank() == 0


def sample(
    run: str | Path | FinishedRun,
    prompts: Sequence[str],
    seed: int = 0,
    model: Literal["tuned", "base"] = "tuned",
    plain: bool = False,
    images: Sequence[str | Path] = (),
    videos: Sequence[str | Path] = (),
    *,
    base: bool = False,
) -> list[Part]:
    """One response per prompt from a run's trained model, or from the base it started from (`base`, which is
    `model="base"`).

    A prompt is a user turn for a language model, or text to continue with `plain`; for an image model it is
    the caption. `images` and `videos`, files, stand in every prompt for a model that looks: where it says
    <image> and <video>, or else in front. The same seed gives base and trained model the same randomness.
    """
    from mmalign.data._prompts import decode_prompts
    from mmalign.data._turns import Reader, insert_media

    finished = _open(run)
    speaker: Literal["text", "user"] = "text" if plain or finished.adapter.kind == "surrogate" else "user"
    media: dict[Literal["image", "video"], tuple[str, list[Part]]] = {
        "image": ("--image", [_file("image", path) for path in images]),
        "video": ("--video", [_file("video", path) for path in videos]),
    }
    asked = [
        (prompt, insert_media(Reader("sample", ""), (Message(speaker, (Part("text", prompt),)),), media))
        for prompt in prompts
    ]
    turns = [turns for _, turns in decode_prompts(asked, finished.adapter.frames)]
    seeds = [derive_seed(seed, 0, f"{i}/{prompt}", "sample") for i, prompt in enumerate(prompts)]
    with (finished.base if base or model == "base" else finished.tuned)() as chosen:
        return finished.adapter.generate(chosen, turns, seeds)


@contextmanager
def for_user(run: FinishedRun, user: str | Mapping[str, float]) -> Iterator[FinishedRun]:
    """A run whose trained model makes pictures for one user inside the block, or for a blend of several,
    {name: share}; what it was not told of is made in the neutral mode. Raises UserError for users it does not
    know."""
    from mmalign.adapters._users import speaking_for

    with speaking_for(run.adapter.policy, {user: 1.0} if isinstance(user, str) else user):
        yield run


def _file(kind: Literal["image", "video"], path: str | Path) -> Part:
    from mmalign.data._paths import File

    place = Path(path).expanduser()
    if not place.is_file():
        raise UserError(f"sample --{kind}: there is no file {path}")
    return Part(kind, File(str(place.resolve().parent), place.name))


def evaluate(
    run: str | Path | FinishedRun,
    num_prompts: int | None = None,
    judge: Judge | Sequence[Judge] | None = None,
    seed: int | None = None,
    prompts: str | Path | None = None,
) -> Comparison:
    """Base against trained model on equal seeds, scored by the judges of the config or by those given, the
    first of which decides; writes evaluation/ and the report into the run folder.

    The prompts are those of the held-out rows, or of a prompt file: `prompts`, or the one the config names.
    """
    from mmalign.data._prompts import decode_prompts
    from mmalign.evaluation.compare import compare
    from mmalign.evaluation.questions import questions
    from mmalign.rewards._reads import answers_of, refuse_unread

    if num_prompts is not None and num_prompts < 1:
        raise UserError(f"evaluate: the number of prompts must be 1 or more, got {num_prompts}")
    finished = _open(run)
    section = finished.config.evaluation
    file = section.prompts if prompts is None else configs.prompt_file(str(prompts), "evaluate: prompts")
    given = section.judges if judge is None else (judge,) if not isinstance(judge, Sequence) else judge
    for one in given:
        refuse_unread(one, answers_of(finished.adapter), "evaluate: judge")
    count, groups = num_prompts or section.num_prompts, dict[str, "Groups"]()
    if file is None:
        asked = heldout_prompts(finished.config, count or HELDOUT_PROMPTS)
    else:
        asked, groups = questions(file.read(), count, finished.adapter.kind)
    answered = compare(
        finished.adapter,
        finished.base,
        finished.tuned,
        decode_prompts(asked, finished.adapter.frames, finished.config.train.timeout_s),
        given,
        section.batch,
        section.seed if seed is None else seed,
    )
    comparison = replace(answered.grouped(groups), step=finished.step)
    comparison.write(finished.folder)
    write_report(finished.folder)
    return comparison


def measure(
    run: str | Path | FinishedRun,
    metrics: Sequence[Metric] | None = None,
    count: int | None = None,
    seed: int | None = None,
) -> list[Measured]:
    """Values of benchmarks, those of the config or those given, for base and trained model: see
    `mmalign/metrics/`. Answers, figures and the report are written into the run folder; answers that are
    there already are not generated again. `count`: so many questions of each; None: all."""
    from mmalign.measuring import measure as measured

    return measured(run, metrics, count, seed)


def heldout_prompts(config: RunConfig, count: int) -> list[tuple[str, tuple[Message, ...]]]:
    """Up to `count` different prompts of a config's held-out rows, with their ids, in file order.

    Raises UserError if the config keeps no rows back.
    """
    from mmalign.data._sources import load
    from mmalign.evaluation.questions import different_prompts

    if config.heldout is not None:
        samples = load(config.heldout).samples
    else:
        parts = [load(source, "heldout") for _, source in config.data if getattr(source, "heldout", 0)]
        samples = [sample for part in parts for sample in part.samples]
    if not samples:
        raise UserError("evaluation: the run has no held-out rows; add section heldout or data.heldout")
    return different_prompts(samples, count)


def export(
    run: str | Path | FinishedRun,
    folder: str | Path,
    merge: bool = False,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> float:
    """Write the trained model for the upstream library and check that it loads and scores alike.

    `merge` folds LoRA into a whole model. Returns the largest score difference after reloading.
    """
    import torch

    from mmalign.training.finished import export as export_run

    return export_run(_open(run), Path(folder), merge, getattr(torch, dtype))


def write_report(run: str | Path) -> Path:
    """Write report.html of a run folder anew; returns its path."""
    from mmalign.report import write

    return write.write_report(Path(run))


def open_run(run: str | Path, allow_code: bool = False) -> FinishedRun:
    """A finished run with its models loaded, for `sample`, `evaluate` and `export`, which then load nothing.

    `allow_code`: import the classes from outside mmalign that the run's config names.
    """
    from mmalign.training.finished import open_run as open_folder

    return open_folder(Path(run), allow_code)


def _open(run: str | Path | FinishedRun) -> FinishedRun:
    return open_run(run) if isinstance(run, str | Path) else run
