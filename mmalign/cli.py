"""The command line: parsing and printing only. Exit code 2 and one line for what the user can correct."""

from __future__ import annotations

import os

# Read when torch is imported: threads that wait asleep. Spinning ones make a run on the CPU many times slower
# as soon as another program holds a core, and gain little where none does.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# ruff: noqa: E402
import contextlib
import errno
import json
import sys
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from mmalign.types import UserError

app = typer.Typer(
    name="mmalign",
    help="Preference alignment for models that write, look, watch and draw.",
    epilog="Any command takes --debug, which shows where in the program an error arose.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
# faults of a place on the disk, whichever file met them: the user can choose another
_PLACES = (errno.EACCES, errno.ENAMETOOLONG, errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS)
Overrides = Annotated[list[str] | None, typer.Argument(help="section.field=value, applied in order")]
RunFolder = Annotated[Path, typer.Argument(help="folder of a run, the config's output")]
AllowCode = Annotated[
    bool, typer.Option(help="import classes named package.module:Class from a run's config")
]


@app.command()
def train(config: Path, overrides: Overrides = None) -> None:
    """Train as CONFIG says; into a folder that holds a run of the same config, go on with it."""
    from mmalign import api

    try:
        folder = api.train(config, *(overrides or []))
    except SystemExit:  # stopped by a signal, all processes at the same step
        _leave()
        raise
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{folder}/report.html")
    _leave()


@app.command()
def build(config: Path, overrides: Overrides = None, allow_code: AllowCode = False) -> None:
    """Make pairs from a model's own samples as CONFIG says, into pairs.jsonl; exit code 1 without any."""
    from mmalign import api

    try:
        folder = api.build(config, *(overrides or []), allow_code=allow_code)
    except SystemExit:  # stopped by a signal, all processes at the same round
        _leave()
        raise
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"{folder}/pairs.jsonl")
    _leave()
    if not (folder / "pairs.jsonl").stat().st_size:
        raise SystemExit(1)


def _leave() -> None:
    """Leave the other processes in order: their threads, torn down at the program's exit, can abort it."""
    from mmalign.training.world import leave

    leave()


@app.command()
def check(
    config: Path,
    overrides: Overrides = None,
    output: Annotated[
        Path | None, typer.Option(help="new folder for report.json and the first samples")
    ] = None,
) -> None:
    """Read all rows of CONFIG and try one step without training; exit code 1 if there is a finding."""
    from mmalign import api

    found = api.check(config, *(overrides or []), output=output, tell=_show)
    if output is not None:
        print(f"{output}/report.json")
    if not found.sound:
        raise SystemExit(1)


def _show(lines: Sequence[str]) -> None:
    """Print a section; on a terminal what is scored is shown in colour instead of between marks."""
    text = "\n".join(lines)
    if sys.stdout.isatty():
        text = text.replace("⟦", "\x1b[1;32m").replace("⟧", "\x1b[0m")
    print(text, flush=True)


@app.command()
def launch(
    args: Annotated[list[str], typer.Argument(help="train or build CONFIG [section.field=value ...]")],
    processes: Annotated[int, typer.Option(help="processes on this machine")],
) -> None:
    """Train or build in several processes: mmalign launch --processes 2 train CONFIG ..."""
    from mmalign.launching import launch as start

    start(args, processes)


@app.command()
def sample(
    run: RunFolder,
    prompt: Annotated[list[str] | None, typer.Option(help="may be given several times")] = None,
    seed: int = 0,
    base: Annotated[bool, typer.Option("--base", help="sample from the base model instead")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="continue the prompt as plain text, no chat")
    ] = False,
    image: Annotated[list[Path] | None, typer.Option(help="a picture in front of every prompt")] = None,
    video: Annotated[list[Path] | None, typer.Option(help="a video in front of every prompt")] = None,
    user: Annotated[
        str | None, typer.Option(help="whom pictures are for: NAME, or a blend, NAME=0.3,OTHER=0.7")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="folder for pictures or clips; default RUN/samples")
    ] = None,
    allow_code: AllowCode = False,
) -> None:
    """Generate one response per prompt with a run's trained model."""
    from mmalign import api
    from mmalign.adapters._users import shares_of
    from mmalign.evaluation._sheet import save_animation
    from mmalign.training.finished import open_run

    if not prompt:
        raise UserError("sample: needs --prompt TEXT, once or several times")
    if out is not None and out.exists() and not out.is_dir():
        raise UserError(f"sample --out: {out} is a file; choose a folder")
    finished = open_run(run, allow_code)
    if finished.config.model.kind == "exact" and out is not None:
        raise UserError("sample --out: is for pictures and clips; this run's texts are printed")
    if finished.config.model.kind == "surrogate" and plain:
        raise UserError("sample --plain: is for language models; a caption is plain text anyway")
    for kind, given in (("image", image), ("video", video)):
        if given and kind not in finished.adapter.media:
            raise UserError(f"sample --{kind}: this run's model reads no {kind} in its prompt")
    which: Literal["base", "tuned"] = "base" if base else "tuned"
    if user is not None and base:
        raise UserError("sample --user: the base model knows no users; leave out one of --user and --base")
    told = contextlib.nullcontext() if user is None else api.for_user(finished, shares_of(user))
    with told:
        parts = api.sample(finished, prompt, seed, which, plain, image or (), video or ())
    folder = out or run / "samples"
    for number, (text, part) in enumerate(zip(prompt, parts, strict=True)):
        if part.kind == "text":
            print(f"> {text}\n{part.data}\n")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{'base' if base else 'tuned'}-{number:03d}.png"
        if part.kind == "video":
            path = path.with_suffix(".webp")
            save_animation(part.data, path)
        else:
            part.data.save(path)
        print(f"{path}  {text}")


@app.command()
def evaluate(
    run: Annotated[Path | None, typer.Argument(help="folder of a run; none with --answers")] = None,
    prompts: Annotated[int | None, typer.Option(help="how many prompts, or questions of a metric")] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            help="a reward, package.module:Class, or '{name: reward_model, path: FOLDER}'; several may be "
            "given, the first decides"
        ),
    ] = None,
    seed: int | None = None,
    file: Annotated[Path | None, typer.Option(help="prompt file in place of the held-out rows")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="a benchmark instead: its name, or '{name: pope, ...}'")
    ] = None,
    answers: Annotated[
        list[Path] | None, typer.Option(help="grade this file by --metric; two: base and tuned")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
    allow_code: AllowCode = False,
) -> None:
    """Compare base and trained model on held-out prompts and on benchmarks; writes evaluation/ and the
    report."""
    from mmalign import api, measuring
    from mmalign.training.finished import open_run

    measuring.check_options(run, {"prompts": prompts, "judge": judge, "file": file}, metric or (), answers)
    if run is None:
        found = measuring.measure_answers(answers or (), measuring.chosen_metrics(metric or ()))
        print(measuring.told(None, found, as_json))
        return
    finished, comparison = open_run(run, allow_code), None
    known = finished.config.evaluation.metrics
    chosen = measuring.chosen_metrics(metric or (), known) or known
    measuring.questions_of_all(finished, chosen, prompts)
    if not metric:
        judges = measuring.judges_from(judge or ())
        comparison = api.evaluate(finished, prompts, judges or None, seed, file)
    found = measuring.measure(finished, chosen, prompts, seed) if chosen else []
    print(measuring.told(comparison, found, as_json))
    if not as_json:
        print(f"{run}/report.html")


@app.command(name="list")
def list_(
    topic: Annotated[
        str | None,
        typer.Argument(
            help="objectives, adapters, sources, formats, transforms, rewards, writers, builders, prompts, "
            "metrics; or a name, or a section such as train, whose fields, defaults and meanings are shown"
        ),
    ] = None,
    adapter: Annotated[str | None, typer.Option(help="only what this adapter can run")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Show what can be chosen by name, what it needs, and which objectives run on which adapters."""
    from mmalign.catalogue import TOPICS, catalogue, shapes, told, topics_of

    if topic is not None and topic not in TOPICS and (places := topics_of(topic)):
        if adapter is not None:
            raise UserError(f"list --adapter: the fields of {topic!r} do not hang on one; leave it out")
        print(told(topic, places, as_json))
        return
    entries = catalogue(topic, adapter)
    if as_json:
        print(json.dumps([asdict(entry) for entry in entries], indent=2))
        return
    for shown in [topic] if topic else TOPICS:
        print(shown)
        for entry in (e for e in entries if e.topic == shown):
            print(f"  {entry.name:22}{entry.summary}")
            if entry.topic == "rewards":
                print(f"  {'':22}reads {', '.join(entry.reads) or 'what all its parts read'}")
            if entry.offers:
                print(f"  {'':22}offers {', '.join(entry.offers)}")
            if entry.adapters is not None:
                listed = entry.adapters if adapter is None else {adapter: entry.adapters[adapter]}
                works = [f"{name}: {'yes' if ok is True else ok}" for name, ok in listed.items()]
                frozen = f"; scores a frozen {', '.join(entry.sources)}" if entry.sources else ""
                print(f"  {'':22}needs {', '.join(entry.needs) or 'nothing'}{frozen} | {'; '.join(works)}")
        for name, summary in shapes(shown).items():
            print(f"  {name}\n  {'':22}{summary}")
        if not any(e.topic == shown for e in entries):
            print("  none by a plain name; yours go by package.module:Class")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a config file, for editors."""
    from mmalign import config as configs

    print(json.dumps(configs.schema(), indent=2))


@app.command()
def export(
    run: RunFolder,
    folder: Annotated[Path, typer.Argument(help="an empty or new folder")],
    merge: Annotated[bool, typer.Option("--merge", help="fold LoRA into a whole model")] = False,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16")] = "float32",
    allow_code: AllowCode = False,
) -> None:
    """Write a run's trained model for the upstream library, load it back and compare scores."""
    from mmalign import api
    from mmalign.training.finished import open_run

    if dtype not in ("float32", "bfloat16", "float16"):
        raise UserError(f"export --dtype: must be float32, bfloat16 or float16, got {dtype!r}")
    gap = api.export(open_run(run, allow_code), folder, merge, dtype)  # type: ignore[arg-type]
    print(f"{folder}  reloaded; largest score difference {gap:.2g}")


@app.command()
def report(run: RunFolder) -> None:
    """Write report.html of a run anew."""
    from mmalign import api

    print(api.write_report(run))


@app.command(name="show-config")
def show_config(config: Path, overrides: Overrides = None) -> None:
    """Print the resolved config, of a run or a build: defaults written out, overrides applied. CONFIG is a
    file, or the folder of a run or a build."""
    from mmalign import config as configs
    from mmalign._yaml import parse_file
    from mmalign.builders import _config as builds

    if config.is_dir():
        if not (config / "config.yaml").is_file():
            raise UserError(f"show-config: {config} holds no run or build (config.yaml is missing)")
        config = config / "config.yaml"
    if "builder" in parse_file(config):
        print(builds.dump(builds.load(config, overrides or [], allow_code=True)), end="")
        return
    print(configs.dump(configs.load(config, overrides or [], allow_code=True)), end="")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 2 for what the user can correct, 1 for anything else."""
    args = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in args
    args = [arg for arg in args if arg != "--debug"]
    try:
        app(args, prog_name="mmalign")
    except UserError as error:
        return _fail(2, " ".join(str(error).split()), debug)
    except SystemExit as stop:  # typer ends every command this way, and refuses unknown options with code 2
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Exception as error:
        text = " ".join(str(error).split())[:500] or "no message"
        if isinstance(error, OSError) and error.errno in _PLACES and error.filename:
            return _fail(2, f"{str(error.filename)[:200]}: {error.strerror}", debug)
        return _fail(1, f"{type(error).__name__}: {text} (--debug shows where)", debug)
    return 0


def _fail(code: int, line: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    from mmalign.launching import leave_to_launch

    if not leave_to_launch(code, line):
        print(f"mmalign: {line}", file=sys.stderr)
    return code


def entry() -> None:
    """The console script."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # read when those libraries are imported
    # a config may name classes of the project it lies in, which need not be installed
    sys.path.insert(0, os.getcwd())
    raise SystemExit(main())


if __name__ == "__main__":
    entry()
