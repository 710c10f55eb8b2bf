"""What a user may hand to the command line by mistake: exit code 2, one line that names it, no file."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import bad_configs
import bad_models
import pytest
import torch
from bad_inputs import FILES, GOOD, IMAGES, png, write_rows
from cli_runs import Call, assert_refused, call, listing, refused, write_config
from training.tiny_runs import Bench

from mmalign.training.record import OutputLock
from mmalign.training.world import World

Capture = pytest.CaptureFixture[str]


# ---------------------------------------------------------------- configs


@pytest.mark.parametrize("name", bad_configs.EDITS)
def test_a_bad_config_is_refused_before_a_model_is_loaded(capsys: Capture, work: Path, name: str) -> None:
    old, new, words = bad_configs.EDITS[name]
    assert bad_configs.BASE.count(old) == 1
    (work / "config.yaml").write_text(bad_configs.BASE.replace(old, new))
    refused(capsys, work, words, "train", "config.yaml")


@pytest.mark.parametrize("name", bad_configs.FILES)
def test_a_file_that_is_no_config(capsys: Capture, work: Path, name: str) -> None:
    content, words = bad_configs.FILES[name]
    (work / "config.yaml").write_bytes(content)
    refused(capsys, work, words, "train", "config.yaml")


@pytest.mark.parametrize("name", bad_configs.OVERRIDES)
def test_a_bad_override(capsys: Capture, work: Path, name: str) -> None:
    override, words = bad_configs.OVERRIDES[name]
    (work / "config.yaml").write_text(bad_configs.BASE)
    refused(capsys, work, words, "train", "config.yaml", override)


# ---------------------------------------------------------------- rows and pictures


@pytest.mark.parametrize("name", FILES)
def test_a_bad_row_is_refused_before_a_model_is_loaded(capsys: Capture, work: Path, name: str) -> None:
    path, words = FILES[name](work)
    (work / "config.yaml").write_text(bad_configs.BASE.replace("pairs.jsonl", path.name))
    refused(capsys, work, words, "train", "config.yaml")


@pytest.mark.parametrize("name", IMAGES)
def test_a_bad_picture_is_refused(capsys: Capture, bench: Bench, work: Path, name: str) -> None:
    path, words = IMAGES[name](work)
    write_config(bench, "image", data={"path": path.name}, train={"batch": 2})
    refused(capsys, work, words, "train", "config.yaml")


# ---------------------------------------------------------------- models


@pytest.mark.parametrize("name", bad_models.TEXT)
def test_a_bad_language_model_is_refused(capsys: Capture, bench: Bench, work: Path, name: str) -> None:
    damage, words = bad_models.TEXT[name]
    damage(Path(shutil.copytree(bench.model["text"]["path"], work / "model")))
    write_config(bench, "text", model={"path": "model"})
    refused(capsys, work, words, "train", "config.yaml")


@pytest.mark.parametrize("name", bad_models.IMAGE)
def test_a_bad_pipeline_is_refused(capsys: Capture, bench: Bench, work: Path, name: str) -> None:
    damage, words = bad_models.IMAGE[name]
    damage(Path(shutil.copytree(bench.model["image"]["path"], work / "model")))
    write_config(bench, "image", model={"path": "model"})
    refused(capsys, work, words, "train", "config.yaml")


@pytest.mark.parametrize("name", bad_models.VISION)
def test_a_bad_vision_model_is_refused(capsys: Capture, bench: Bench, work: Path, name: str) -> None:
    damage, words = bad_models.VISION[name]
    damage(Path(shutil.copytree(bench.model["seeing"]["path"], work / "model")))
    write_config(bench, "seeing", model={"path": "model"}, data={"path": bench.data["seeing"]["path"]})
    refused(capsys, work, words, "train", "config.yaml")


@pytest.mark.parametrize("name", bad_models.LORA)
def test_a_bad_saved_adapter_is_refused(capsys: Capture, bench: Bench, work: Path, name: str) -> None:
    write_config(bench, "text", lora={"rank": 4}, train={"steps": 1})
    assert call(capsys, "train", "config.yaml").code == 0
    damage, words = bad_models.LORA[name]
    damage(Path(shutil.move(work / "out" / "final", work / "adapter")))
    shutil.rmtree(work / "out")
    refused(capsys, work, words, "train", "config.yaml", "lora.path=adapter")


SWAPPED = {
    "pipeline as a language model": ("text", "image", ("holds a diffusion pipeline", "adapter: diffusion")),
    "language model as one that looks": ("seeing", "text", ("reads text only", "adapter: text")),
    "model that looks as a language model": ("text", "seeing", ("also reads images", "adapter: vlm")),
    "pipeline as one that looks": ("seeing", "image", ("holds a diffusion pipeline",)),
    "language model as a pipeline": ("image", "text", ("holds a language model", "adapter: text")),
}


@pytest.mark.parametrize("name", SWAPPED)
def test_a_model_of_another_kind_is_named(capsys: Capture, bench: Bench, work: Path, name: str) -> None:
    kind, other, words = SWAPPED[name]
    write_config(bench, kind, model={"path": bench.model[other]["path"]})
    refused(capsys, work, words, "train", "config.yaml")


def test_a_bad_reference_is_refused(capsys: Capture, bench: Bench, work: Path) -> None:
    write_config(bench, "text", reference={"name": "path", "path": "./gone"})
    refused(capsys, work, ("./gone", "there is no folder"), "train", "config.yaml")


# ---------------------------------------------------------------- rows that only the model can judge

CHAT = {"chosen": "yes", "rejected": "no", "prompt": [{"role": "user", "content": "Is it?"}]}
PICTURES = {"prompt": "cat", "chosen_image": "good.png", "rejected_image": "other.png"}
TURNS = [{"role": "system", "content": "Draw."}, {"role": "user", "content": "cat"}]

# name -> (model, row, words of the refusal)
UNFIT: dict[str, tuple[str, dict[str, Any], tuple[str, ...]]] = {
    "prompt too long": ("text", GOOD | {"prompt": "x" * 500}, ("none of the 128 allowed", "max_length")),
    "pair too long": ("text", GOOD | {"rejected": "x" * 500}, ("rejected", "more than the 128 allowed")),
    "typed end token": ("text", GOOD | {"chosen": "Hi<|im_end|>"}, ("chosen", "'<|im_end|>'", "control")),
    "typed in the prompt": ("text", GOOD | {"prompt": "<s> Hi"}, ("prompt", "'<s>'", "control token")),
    "picture for a text": ("text", GOOD | {"images": ["good.png"]}, ("prompt", "kind image", "text only")),
    "text for a picture": ("image", GOOD, ("chosen: response must be exactly one image",)),
    "typed in a caption": ("image", PICTURES | {"prompt": "cat <|endoftext|>"}, ("caption", "<|endoftext|>")),
    "turns for a caption": ("image", PICTURES | {"prompt": TURNS}, ("one message, the caption",)),
    "picture too small": ("image", PICTURES | {"rejected_image": "dot.png"}, ("8 pixels or more", "1 x 1")),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_row_the_model_cannot_take(capsys: Capture, bench: Bench, work: Path, name: str) -> None:
    kind, row, words = UNFIT[name]
    for file, size in (("good.png", (16, 12)), ("other.png", (16, 13)), ("dot.png", (1, 1))):
        (work / file).write_bytes(png(size))
    sound = GOOD if kind == "text" else PICTURES
    write_rows(work / "rows.jsonl", [sound, row])
    write_config(bench, kind, data={"path": "rows.jsonl"}, train={"batch": 2})
    refused(capsys, work, ("rows.jsonl row 2", *words), "train", "config.yaml")


def test_chat_without_a_template(capsys: Capture, bench: Bench, work: Path) -> None:
    model = Path(shutil.copytree(bench.model["text"]["path"], work / "model"))
    (model / "chat_template.jinja").unlink()
    write_rows(work / "rows.jsonl", [GOOD, CHAT])
    write_config(bench, "text", model={"path": "model"}, data={"path": "rows.jsonl"}, train={"batch": 2})
    refused(capsys, work, ("rows.jsonl row 2", "no chat template"), "train", "config.yaml")


@pytest.mark.parametrize(
    "fault, words", [("nan", "NaN or infinite"), ("empty", "edge of 0"), ("above 1", "lie in [0, 1]")]
)
def test_pictures_that_are_arrays(capsys: Capture, bench: Bench, work: Path, fault: str, words: str) -> None:
    write_config(bench, "image", train={"batch": 2})
    overrides = ("data.source=cli_runs:Arrays", f"data.fault={fault}")
    refused(capsys, work, ("arrays row 2", "'rejected'", words), "train", "config.yaml", *overrides)


# ---------------------------------------------------------------- folders that are taken


@pytest.fixture
def finished(capsys: Capture, bench: Bench, work: Path) -> Path:
    """A run of one step on pairs.jsonl in out/."""
    write_config(bench, "text", data={"path": "pairs.jsonl"}, train={"steps": 1})
    assert call(capsys, "train", "config.yaml").code == 0
    return work / "out"


def test_a_folder_of_something_else(capsys: Capture, bench: Bench, work: Path) -> None:
    (work / "out").mkdir()
    (work / "out" / "thesis.tex").write_text("do not lose")
    write_config(bench, "text")
    refused(capsys, work, ("output: out", "not empty and holds no run"), "train", "config.yaml")


def test_a_run_of_another_config(capsys: Capture, work: Path, finished: Path) -> None:
    words = ("output: out holds a run of another config", "train.lr was 0.001, is 0.5")
    refused(capsys, work, words, "train", "config.yaml", "train.lr=0.5")


def test_a_run_on_other_rows(capsys: Capture, work: Path, finished: Path) -> None:
    rows = work / "pairs.jsonl"
    rows.write_text(rows.read_text().replace("Hello!", "Hallo!"))
    words = ("data: the rows are not those that out was trained on",)
    refused(capsys, work, words, "train", "config.yaml", "train.steps=2")


def test_a_run_that_another_process_writes(capsys: Capture, work: Path, finished: Path) -> None:
    with OutputLock(finished, World(0, 1, torch.device("cpu"))):
        words = ("output: process", "is writing to out")
        refused(capsys, work, words, "train", "config.yaml", "train.steps=2")


def test_a_run_whose_checkpoints_are_broken(capsys: Capture, work: Path, finished: Path) -> None:
    bad_models.halve(finished / "checkpoints" / "step-000001" / "model.safetensors")
    before = listing(work)
    called = call(capsys, "train", "config.yaml")
    assert_refused(called, ("output: out holds only broken checkpoints",))
    assert "step-000001 is broken" in called.err
    assert listing(work) == before


# ---------------------------------------------------------------- as a command of its own


def _mapo(bench: Bench, work: Path) -> tuple[str, ...]:
    write_config(bench, "text", model={"path": "./nowhere"}, objective={"name": "mapo"})
    return "mapo", "needs error", "adapter text offers"


def _tab(bench: Bench, work: Path) -> tuple[str, ...]:
    (work / "config.yaml").write_text("model:\n\tadapter: text\n")
    return "config.yaml line 2", "tab"


def _row(bench: Bench, work: Path) -> tuple[str, ...]:
    (work / "bad.jsonl").write_text('{"prompt": "Say 3."}\n')
    write_config(bench, "text", data={"path": "bad.jsonl"})
    return "bad.jsonl row 1", "no chosen and rejected"


def _model(bench: Bench, work: Path) -> tuple[str, ...]:
    model = Path(shutil.copytree(bench.model["text"]["path"], work / "model"))
    (model / "model.safetensors").unlink()
    write_config(bench, "text", model={"path": "model"})
    return "model:", "no weights"


def _picture(bench: Bench, work: Path) -> tuple[str, ...]:
    path, words = IMAGES["cut PNG"](work)
    write_config(bench, "image", data={"path": path.name}, train={"batch": 2})
    return words


def test_a_refusal_leaves_no_other_line_on_the_streams(
    capfd: pytest.CaptureFixture[str], bench: Bench, work: Path
) -> None:
    """What libraries write past Python is seen here too."""
    words = _row(bench, work)
    before = listing(work)
    assert_refused(call(capfd, "train", "config.yaml"), words)
    assert listing(work) == before


@pytest.mark.parametrize("make", [_mapo, _tab, _model, _picture])
def test_refusals_of_a_real_process(bench: Bench, work: Path, make: Any) -> None:
    words = make(bench, work)
    early = make in (_mapo, _tab)
    before = listing(work)
    timing = ["-X", "importtime"] if early else []
    command = [sys.executable, *timing, "-m", "mmalign", "train", "config.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=work)
    assert_refused(Call(done.returncode, done.stdout, done.stderr), words)
    assert listing(work) == before
    if early:  # what is refused from the config alone costs no model library
        imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
        assert "torch" in imported
        assert not imported & {"transformers", "diffusers", "peft", "accelerate", "datasets"}
