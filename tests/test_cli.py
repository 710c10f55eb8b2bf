"""The verbs of the command line end to end, on tiny models: what they print, write and leave alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from cli_runs import assert_refused, call, listing
from PIL import Image, ImageChops
from training.tiny_runs import SIDE

from mmalign.api import open_run, sample
from mmalign.config import RunConfig
from mmalign.types import PreferenceSample

Capture = pytest.CaptureFixture[str]


@dataclass(frozen=True)
class Lost:
    """A source with a fault of its own, test_cli:Lost."""

    def samples(self) -> Iterator[PreferenceSample]:
        """Never gives a sample."""
        raise KeyError("lost")


# ---------------------------------------------------------------- what there is


def test_list_as_text(capsys: Capture) -> None:
    shown = call(capsys, "list")
    assert shown.code == 0 and shown.err == ""
    lines = shown.out.splitlines()
    topics = " ".join(line for line in lines if not line.startswith(" "))
    assert topics == "objectives adapters sources formats transforms rewards writers builders prompts metrics"
    mapo = next(i for i, line in enumerate(lines) if line.startswith("  mapo "))
    assert "diffusion: yes" in lines[mapo + 1] and "text: lacks error" in lines[mapo + 1]


def test_list_as_json_and_by_adapter(capsys: Capture) -> None:
    entries = json.loads(call(capsys, "list", "--json").out)
    found = {entry["name"]: entry for entry in entries}
    assert {"dpo", "kto", "sft", "mapo", "text", "diffusion", "jsonl", "parquet"} <= found.keys()
    assert found["dpo"]["sources"] == ["reference"] and found["sft"]["sources"] == []
    assert found["mapo"]["adapters"].items() >= {"diffusion": True, "text": "lacks error"}.items()
    only = json.loads(call(capsys, "list", "objectives", "--adapter", "text", "--json").out)
    assert {entry["topic"] for entry in only} == {"objectives"}
    names = {entry["name"] for entry in only}
    assert {"dpo", "kto", "sft"} <= names and not names & {"mapo", "bt"}
    assert all(entry["adapters"]["text"] is True for entry in only)
    assert "bt" in call(capsys, "list", "objectives", "--adapter", "reward_head").out


@pytest.mark.parametrize("argv", [("list", "losses"), ("list", "--adapter", "txet")])
def test_list_of_what_is_not_there(capsys: Capture, argv: tuple[str, ...]) -> None:
    assert_refused(call(capsys, *argv), (argv[-1],))


@pytest.mark.parametrize("name", ["train", "dpo", "jsonl"])
def test_an_adapter_narrows_no_fields(capsys: Capture, name: str) -> None:
    """What is shown of one name is the same for every adapter."""
    assert_refused(call(capsys, "list", name, "--adapter", "text"), ("list --adapter", name, "leave it out"))
    assert_refused(call(capsys, "list", name, "--adapter", "text", "--json"), ("list --adapter",))


def test_schema_names_every_section(capsys: Capture) -> None:
    schema = json.loads(call(capsys, "schema").out)
    assert set(schema["properties"]) == set(RunConfig.__dataclass_fields__)
    assert schema["required"] == ["model", "data", "objective", "train"]


def test_show_config_gives_a_config(capsys: Capture, runs: Path, tmp_path: Path) -> None:
    override = ("train.lr=5e-6", "objective.name=ipo")
    shown = call(capsys, "show-config", runs / "text.yaml", *override)
    assert shown.code == 0 and "replaces the whole section" in shown.err
    tree = yaml.safe_load(shown.out)
    assert tree["train"]["lr"] == 5e-6 and tree["train"]["betas"] == [0.9, 0.999]
    assert tree["objective"]["name"] == "ipo"
    (tmp_path / "again.yaml").write_text(shown.out)
    assert call(capsys, "show-config", tmp_path / "again.yaml").out == shown.out
    of_run = call(capsys, "show-config", runs / "text")
    assert of_run.code == 0 and of_run.out == call(capsys, "show-config", runs / "text.yaml").out
    refused = call(capsys, "show-config", tmp_path)
    assert refused.code == 2 and "holds no run or build" in refused.refusal


# ---------------------------------------------------------------- train and report


def test_train_prints_the_report_and_goes_on(capsys: Capture, runs: Path) -> None:
    folder = runs / "text"
    page = (folder / "report.html").read_text()
    before = listing(folder)
    again = call(capsys, "train", runs / "text.yaml")
    assert again.code == 0 and again.out == f"{folder}/report.html\n"
    assert "already holds 4 of 4 steps; nothing to do" in again.err
    assert listing(folder) == before
    (folder / "report.html").unlink()
    assert call(capsys, "report", folder).out == f"{folder}/report.html\n"
    assert (folder / "report.html").read_text() == page


def test_train_longer_by_override(capsys: Capture, runs: Path, tmp_path: Path) -> None:
    config, output = runs / "text-lora.yaml", f"output={tmp_path / 'run'}"
    assert call(capsys, "train", config, output, "train.steps=2").code == 0
    longer = call(capsys, "train", config, output, "train.steps=3")
    assert longer.code == 0 and "going on from step 2" in longer.err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["step"] == 3


def test_faults_of_ours_end_with_code_1(capsys: Capture, runs: Path, tmp_path: Path) -> None:
    argv = ("train", runs / "text.yaml", "data.source=test_cli:Lost", f"output={tmp_path / 'run'}")
    failed = call(capsys, *argv)
    assert failed.code == 1 and failed.refusal == "mmalign: KeyError: 'lost' (--debug shows where)"
    shown = call(capsys, "--debug", *argv)
    assert shown.code == 1 and "Traceback" in shown.err and 'raise KeyError("lost")' in shown.err


def test_debug_shows_where_a_refusal_was_made(capsys: Capture, tmp_path: Path) -> None:
    shown = call(capsys, "report", tmp_path / "gone", "--debug")
    assert shown.code == 2 and "Traceback" in shown.err
    assert shown.err.splitlines()[-1] == f"mmalign: {tmp_path}/gone: holds no run (run.json is missing)"


@pytest.mark.parametrize("argv", [("trian",), ("train",), ("train", "a.yaml", "--fast")])
def test_wrong_usage_has_code_2(capsys: Capture, argv: tuple[str, ...]) -> None:
    wrong = call(capsys, *argv)
    assert wrong.code == 2 and "Usage: mmalign" in wrong.err and "Traceback" not in wrong.err


# ---------------------------------------------------------------- sample


def test_sample_text(capsys: Capture, runs: Path) -> None:
    def said(*options: str, name: str = "text") -> str:
        done = call(capsys, "sample", runs / name, "--prompt", "the red fox", *options)
        assert done.code == 0, done.err
        return done.out

    tuned = said()
    assert tuned.startswith("> the red fox\n") and len(tuned) > len("> the red fox\n\n\n")
    assert said() == tuned
    others = [said("--base"), said("--seed", "1"), said("--plain"), said(name="text-lora")]
    assert len({tuned, *others}) == 5
    assert said("--base") == said("--base", name="text-lora")  # both started from one model
    two = call(capsys, "sample", runs / "text", "--prompt", "the red fox", "--prompt", "why?").out
    assert two.startswith(tuned) and "> why?\n" in two


@pytest.mark.parametrize("name", ["image", "image-lora"])
def test_sample_pictures(capsys: Capture, runs: Path, tmp_path: Path, name: str) -> None:
    argv = ("sample", runs / name, "--prompt", "cat 1", "--prompt", "cat 2")
    done = call(capsys, *argv, "--out", tmp_path / "shown")
    assert done.code == 0, done.err
    files = [tmp_path / "shown" / f"tuned-{i:03d}.png" for i in range(2)]
    assert done.out == f"{files[0]}  cat 1\n{files[1]}  cat 2\n"
    assert call(capsys, *argv, "--base").code == 0
    pictures = {}
    for file in [*files, *(runs / name / "samples").iterdir()]:
        with Image.open(file) as picture:
            assert picture.size == (SIDE, SIDE)
            pictures[file.stem] = picture.convert("RGB")
    assert sorted(pictures) == ["base-000", "base-001", "tuned-000", "tuned-001"]
    assert ImageChops.difference(pictures["base-000"], pictures["tuned-000"]).getbbox() is not None


SAMPLES_REFUSED = {
    "a folder for text": ("text", ("--out", "x"), ("sample --out", "for pictures")),
    "plain captions": ("image", ("--plain",), ("sample --plain", "language models")),
    "a file for pictures": ("image", ("--out", "pairs.jsonl"), ("sample --out", "pairs.jsonl is a file")),
    "a typed control token": ("text", ("--prompt", "<s>"), ("prompt 1", "'<s>'")),
    "a long prompt": ("text", ("--prompt", "x" * 999), ("prompt 1", "none of the 128 allowed")),
}


@pytest.mark.parametrize("case", SAMPLES_REFUSED)
def test_sample_refuses(capsys: Capture, runs: Path, work: Path, case: str) -> None:
    name, options, words = SAMPLES_REFUSED[case]
    before = listing(work)
    assert_refused(call(capsys, "sample", runs / name, "--prompt", "cat", *options), words)
    assert listing(work) == before


def test_the_base_is_asked_for_by_the_same_word_in_python(runs: Path) -> None:
    finished = open_run(runs / "text")
    base, named, tuned = (
        [part.data for part in sample(finished, ["the red fox", "why?"], **how)]
        for how in ({"base": True}, {"model": "base"}, {})
    )
    assert base == named != tuned


def test_sample_without_a_prompt_is_refused_in_one_line(capsys: Capture, runs: Path) -> None:
    assert_refused(call(capsys, "sample", runs / "text"), ("sample: needs --prompt TEXT",))


# ---------------------------------------------------------------- evaluate


def test_evaluate_with_a_judge_from_the_command_line(capsys: Capture, runs: Path) -> None:
    argv = ("evaluate", runs / "text", "--judge", "cli_runs:Letters")
    first = json.loads(call(capsys, *argv, "--json").out)
    assert first["win_rate"]["num"] == 6 and set(first["means"]) == {"score", "length"}
    assert 0 < first["means"]["score"]["base"] < 1
    shown = call(capsys, *argv, "--prompts", "4").out
    assert shown.startswith("win rate ") and "4 prompts" in shown and shown.endswith("text/report.html\n")
    stored = json.loads((runs / "text" / "evaluation" / "results.json").read_text())
    record = json.loads((runs / "text" / "run.json").read_text())
    assert len(stored["rows"]) == 4 and stored["step"] == record["step"] > 0
    other = json.loads(call(capsys, *argv, "--json", "--seed", "5").out)
    assert other["means"]["score"]["base"] != first["means"]["score"]["base"]


def test_a_judge_in_a_run_needs_allow_code(capsys: Capture, runs: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    judge = ("evaluation.judge={name: cli_runs:Letters, scale: 10}", "train.steps=1")
    assert call(capsys, "train", runs / "text.yaml", f"output={run}", *judge).code == 0
    for argv in (("evaluate", run), ("sample", run, "--prompt", "a"), ("export", run, tmp_path / "x")):
        assert_refused(call(capsys, *argv), ("cli_runs:Letters", "--allow-code"))
    done = call(capsys, "evaluate", run, "--allow-code", "--json")
    assert done.code == 0 and json.loads(done.out)["means"]["score"]["base"] > 1
    assert call(capsys, "report", run).code == 0  # imports nothing that the config names


def test_evaluate_on_a_prompt_file_by_two_judges(capsys: Capture, runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "asked.tsv"
    file.write_text("Prompt\tCategory\tChallenge\nwhy?\tWords\tBasic\nwho?\tWords\tBasic\n")
    judges = ("--judge", "cli_runs:Letters", "--judge", "{name: 'cli_runs:Letters', scale: -1}")
    done = call(capsys, "evaluate", runs / "text", "--file", file, *judges, "--allow-code", "--json")
    assert done.code == 0
    found = json.loads(done.out)
    assert {"score", "Letters 2/score"} <= set(found["win_rates"])
    assert found["win_rates"]["score"]["wins"] == found["win_rates"]["Letters 2/score"]["losses"]
    stored = json.loads((runs / "text" / "evaluation" / "results.json").read_text())
    assert [row["text"] for row in stored["rows"]] == ["why?", "who?"]
    assert {row["group"] for row in stored["groups"]} == {"Words", "Basic"}
    missing = call(capsys, "evaluate", runs / "text", "--file", tmp_path / "no.txt")
    assert_refused(missing, ("there is no file",))


def test_evaluate_without_a_judge(capsys: Capture, runs: Path) -> None:
    done = call(capsys, "evaluate", runs / "image", "--prompts", "1")
    assert done.code == 0 and done.out.startswith("no judge: responses are in the report, unscored\n")
    files = sorted(p.name for p in (runs / "image" / "evaluation").iterdir())
    assert files == ["base-000.png", "grid", "results.json", "tuned-000.png"]


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("text", ("--prompts", "0"), ("number of prompts must be 1 or more, got 0",)),
        ("text", ("--judge", "nice"), ("--judge", "no reward is called 'nice'")),
        ("text", ("--judge", "cli_runs:nothing"), ("--judge", "cli_runs:nothing")),
        ("text-lora", (), ("no held-out rows", "data.heldout")),
    ],
)
def test_evaluate_refuses(
    capsys: Capture, runs: Path, name: str, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_refused(call(capsys, "evaluate", runs / name, *options), words)


# ---------------------------------------------------------------- processes


def _process(*argv: str, timeout: float) -> tuple[int, str]:
    """Run and, after the timeout, kill the process and all it started."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [sys.executable, "-m", "mmalign", *argv],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    return process.returncode, output


def test_the_package_is_the_command() -> None:
    code, output = _process("--help", timeout=180)
    assert code == 0
    for verb in (
        "train",
        "launch",
        "sample",
        "evaluate",
        "list",
        "schema",
        "export",
        "report",
        "show-config",
    ):
        assert f"  {verb} " in output
    assert "Any command takes --debug" in output


@pytest.mark.parametrize(
    "argv, words",
    [
        (("--processes", "0", "train", "c.yaml"), ("--processes", "1 or more, got 0")),
        (("--processes", "2", "sample", "c.yaml"), ("launch: write", "train CONFIG")),
        (("--processes", "2", "train", "c.yaml"), ("c.yaml: no such file",)),
        (("--processes", "9", "train", "text.yaml"), ("train.batch", "6 samples", "9 processes")),
    ],
)
def test_launch_refuses(
    capsys: Capture,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: tuple[str, ...],
    words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(runs)
    assert_refused(call(capsys, "launch", *argv), words)


@pytest.mark.multiprocess
def test_launch_trains_in_two_processes(runs: Path, tmp_path: Path) -> None:
    argv = ("launch", "--processes", "2", "train", str(runs / "text.yaml"), f"output={tmp_path / 'run'}")
    code, output = _process(*argv, timeout=300)
    assert code == 0, output
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["processes"] == 2 and record["status"] == "finished"
    assert output.count("report.html") == 1


def test_functions_survive_their_own_use(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing a subpackage must not replace a public function of the same name."""
    import mmalign

    page = mmalign.write_report(runs / "text")
    assert page.name == "report.html"
    for name in mmalign.__all__:
        assert callable(getattr(mmalign, name)), name
    with pytest.raises(mmalign.UserError, match="as a string of its own"):
        mmalign.load_config("x.yaml", ["train.steps=5"])  # type: ignore[arg-type]
