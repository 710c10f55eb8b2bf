"""Configs that cannot be right: each is refused in one line that names the place, the value and the rule."""

import os
from pathlib import Path

import pytest
from config_text import loaded, refusal, text

from mmalign import cli
from mmalign._yaml import parse
from mmalign.config import load
from mmalign.types import UserError

TRAIN = {  # entry beside `steps: 10` in section train -> words of the line
    "lr: fast": ("train.lr", "must be a number, got 'fast'"),
    "lr: ''": ("train.lr", "must be a number, got ''"),
    "lr: 0x10": ("train.lr", "must be a number, got '0x10'"),
    "lr: 2024-01-01": ("train.lr", "must be a number, got '2024-01-01'"),
    "lr: 1_000": ("train.lr", "must be a number, got '1_000'"),
    "lr: 1:30": ("train.lr", "must be a number, got '1:30'"),
    "batch: 012": ("train.batch", "must be a number, got '012'"),
    "batch: '012'": ("train.batch", "must be a number, got '012'"),
    "batch: no": ("train.batch", "must be a number, got 'no'"),
    "batch: true": ("train.batch", "must be a number, got true"),
    "batch: 1.5": ("train.batch", "integer", "got 1.5"),
    "batch: null": ("train.batch", "got None"),
    "batch: 0": ("train.batch", "must be above 0, got 0"),
    "batch: -1": ("train.batch", "must be above 0, got -1"),
    "batch: [1, 2]": ("train.batch", "must be one number, got [1, 2]"),
    "lr: 0": ("train.lr", "must be above 0, got 0"),
    "lr: -1e-5": ("train.lr", "must be above 0, got -1e-05"),
    "lr: .nan": ("train.lr", "must be a finite number, got nan"),
    "lr: .inf": ("train.lr", "must be a finite number, got inf"),
    "lr: 1e999": ("train.lr", "must be a finite number, got inf"),
    "lr: nan": ("train.lr", "must be a number, got 'nan'"),
    "lr: 'inf'": ("train.lr", "must be a number, got 'inf'"),
    "betas: [0.9, .nan]": ("train.betas.1", "must be a finite number, got nan"),
    "betas: [false, 0.9]": ("train.betas.0", "must be a number, got false"),
    "betas: [0.9, fast]": ("train.betas.1", "must be a number, got 'fast'"),
    "betas: [0.9]": ("train.betas.1", "required"),
    "betas: [0.9, 1.0]": ("train.betas", "must lie in [0, 1), got [0.9, 1.0]"),
    "checkpointing: on": ("train.checkpointing", "must be true or false, got 'on'"),
    "checkpointing: yes": ("train.checkpointing", "must be true or false, got 'yes'"),
    "checkpointing: 1": ("train.checkpointing", "must be true or false, got 1"),
    "schedule: on": ("train.schedule", "'constant', 'linear' or 'cosine'", "got 'on'"),
    "schedule: cosine": ("train.schedule_steps", "cosine needs it"),
    "schedule_steps: 5": ("train.schedule_steps", "not read by schedule constant"),
    "draws: fixed:0": ("train.draws", "must be fresh or fixed:K", "'fixed:0'"),
    "draws: fixed:\u00b2": ("train.draws", "must be fresh or fixed:K"),
    "epochs: 2": ("train.steps", "exactly one of steps and epochs"),
    "stpes: 3": ("unknown key stpes", "did you mean train.steps?", "valid keys: steps, epochs"),
    "lr: 1, lr: 2": ("line 4", "key lr is given twice"),
}
FILES: dict[str, tuple[str | bytes, tuple[str, ...]]] = {
    "empty": ("", ("the file is empty",)),
    "only a comment": ("# nothing\n", ("the file is empty",)),
    "a list": ("- model\n- data\n", ("must hold sections", "holds a list")),
    "a word": ("train\n", ("must hold sections", "holds a str")),
    "tab": ("model:\n\tadapter: text\n", ("line 2", "a tab cannot indent YAML")),
    "broken": ("model: {adapter: text\n", ("line", "expected")),
    "key twice": (text() + "seed: 1\nseed: 2\n", ("line 6", "key seed is given twice")),
    "number as key": (text() + "1: 2\n", ("line 5", "keys must be strings, got 1")),
    "list as key": (text() + "? [a]\n: 2\n", ("line 5", "keys must be strings")),
    "python object": (text(seed="!!python/object/apply:os.system ['true']"), ("line 5", "!!python/object")),
    "known tag": (text(seed="!!bool maybe"), ("line 5", "the tag !!bool is not supported")),
    "own tag": (text(seed="!mine 3"), ("line 5", "the tag !mine is not supported")),
    "alias": ("a: &a [x]\nb: [*a, *a]\n", ("line 1", "anchors and aliases are not supported")),
    "unknown alias": (text(seed="*nothing"), ("anchors and aliases are not supported",)),
    "deep": (text(log="{a: " * 25 + "1" + "}" * 25), ("nested deeper than 20 levels",)),
    "abyss": (text(log="[" * 5000 + "]" * 5000), ("not readable as YAML",)),
    "long integer": (text(seed="9" * 5000), ("not readable as YAML",)),
    "UTF-16": (text().encode("utf-16"), ("not UTF-8", "byte 0")),
    "NUL": (text().encode() + b"\x00", ("not readable as YAML",)),
    "huge": (b"# " + b"x" * (1 << 20) + b"\n", ("larger than 1 MiB",)),
    "unknown section": (text(trian="{}"), ("unknown key trian", "did you mean train?", "valid keys: model")),
    "a build's config": (
        b"builder: best_of_n\nprompts: {}\n",
        ("has a builder", "`mmalign build`"),
    ),
    "no data": (text(data=None), ("section data is missing",)),
    "empty section": (text(train=""), ("train: the section is empty",)),
    "section is a list": (text(train="[1]"), ("train: must be a mapping", "got [1]")),
    "section is a word": (text(model="text"), ("model: must be a mapping with adapter: NAME, got 'text'",)),
    "no adapter": (text(model="{path: m}"), ("model: needs adapter: NAME",)),
    "no path": (text(model="{adapter: text}"), ("model.path", "required")),
    "typo in a name": (
        text(objective="{name: dpoo}"),
        ("no objective is called 'dpoo'", "did you mean dpo?"),
    ),
    "path as a name": (text(objective="{name: ../dpo}"), ("no objective is called '../dpo'",)),
    "private name": (text(objective="{name: _pairs}"), ("no objective is called '_pairs'",)),
    "number as a name": (text(objective="{name: 3}"), ("objective: needs name: NAME",)),
    "foreign field": (text(objective="{name: dpo, tau: 1}"), ("objective", "unknown key tau", "beta")),
    "beta is a list": (text(objective="{name: dpo, beta: [0.1, 0.2]}"), ("objective.beta", "one number")),
    "beta is 0": (text(objective="{name: dpo, beta: 0}"), ("objective.beta", "must be above 0, got 0")),
    "beta is NaN": (text(objective="{name: dpo, beta: .nan}"), ("objective.beta", "finite number, got nan")),
    "no objectives": (text(objective="[]"), ("objective: the list of objectives is empty",)),
    "no sources": (text(data="[]"), ("data: the list of sources is empty",)),
    "weight 0": (text(objective="[{name: dpo, weight: 0}]"), ("objective[0].weight", "above 0, got 0")),
    "weight NaN": (text(data="[{source: jsonl, path: a, weight: .nan}]"), ("data[0].weight", "finite")),
    "term is a word": (text(objective="[dpo]"), ("objective[0]: must be a mapping, got 'dpo'",)),
    "second term": (
        text(objective="[{name: dpo}, {name: ipo, beta: 1}]"),
        ("objective[1]", "unknown key beta"),
    ),
    "nested typo": (
        text(model="{adapter: text, path: m, generation: {top: 1}}"),
        ("model.generation", "top_p"),
    ),
    "nested rule": (
        text(model="{adapter: text, path: m, generation: {top_p: 2}}"),
        ("model.generation.top_p: must lie in (0, 1], got 2",),
    ),
    "nested rule that names its section": (
        text(model="{adapter: diffusion, path: m, generation: {steps: 0}}"),
        ("run.yaml: model.generation.steps: must be 1 or more, got 0",),
    ),
    "transform": (text(transforms="[{name: length_desensitized, alpha: 2}]"), ("transforms.alpha", "got 2")),
    "reference without path": (text(reference="{name: path}"), ("reference.path", "needs a folder")),
    "reference with needless path": (
        text(reference="{name: copy, path: x}"),
        ("reference.path", "got name copy"),
    ),
    "unknown reference": (
        text(reference="{name: adapter}"),
        ("reference.name", "'lora_off'", "got 'adapter'"),
    ),
    "LoRA targets": (text(lora="{targets: [1]}"), ("lora.targets.0", "valid string, got 1")),
    "LoRA dropout": (text(lora="{dropout: 1}"), ("lora.dropout", "must lie in [0, 1), got 1")),
    "share of rows": (text(data="{source: jsonl, path: d, heldout: [1]}"), ("data.heldout", "one number")),
    "seed is a word": (text(seed="abc"), ("seed: must be a number, got 'abc'",)),
    "seed is true": (text(seed="true"), ("seed: must be a number, got true",)),
    "output is a number": (text(output="3"), ("output", "valid string, got 3")),
}
OVERRIDES = {
    "train.lr": ("override 'train.lr'", "write section.field=value"),
    "=3": ("override '=3'", "write section.field=value"),
    "train..lr=1": ("override 'train..lr=1'", "write section.field=value"),
    "train.lr=fast": ("train.lr", "must be a number, got 'fast'"),
    "train.lr=!!python/none x": ("override train.lr", "the tag !!python/none is not supported"),
    "train.lr=: :": ("override train.lr", "line 1"),
    "train=null": ("train: the section is empty",),
    "nosuch.x=1": ("unknown key nosuch",),
    "train.steps.x=1": ("override 'train.steps.x=1'", "train.steps holds a value, not a section"),
    "model.adapter=diffusion": ("model.path", "required"),  # the path belonged to the other adapter
}


@pytest.mark.parametrize("entry", TRAIN)
def test_training_fields(entry: str, tmp_path: Path) -> None:
    line = refusal(tmp_path, text(train=f"{{steps: 10, {entry}}}"))
    assert line.startswith("run.yaml") and all(word in line for word in TRAIN[entry]), line


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path) -> None:
    content, words = FILES[name]
    line = refusal(tmp_path, content)
    assert line.startswith("run.yaml") and all(word in line for word in words), line


@pytest.mark.parametrize("override", OVERRIDES)
def test_overrides(override: str, tmp_path: Path) -> None:
    line = refusal(tmp_path, text(), [override])
    assert all(word in line for word in OVERRIDES[override]), line


@pytest.mark.parametrize(
    ("override", "words"),
    [("data.2.path=x", "2 is no place in a list of 2"), ("data.\u00b2.path=x", "is no place in a list of 2")],
)
def test_overrides_of_lists(override: str, words: str, tmp_path: Path) -> None:
    mixture = "[{source: jsonl, path: a}, {source: jsonl, path: b}]"
    assert words in refusal(tmp_path, text(data=mixture), [override])


def test_folders_and_missing_files_are_no_configs(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder; give the YAML file$"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"absent\.yaml: no such file$"):
        load(tmp_path / "absent.yaml")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be read: Not a directory"):
        load(tmp_path / "file" / "run.yaml")


@pytest.mark.skipif(os.name == "nt" or not Path("/dev/zero").exists(), reason="needs /dev/zero")
def test_an_endless_file_is_not_read_to_its_end() -> None:
    with pytest.raises(UserError, match="larger than 1 MiB"):
        load("/dev/zero")


@pytest.mark.parametrize("name", ["lr: fast", "stpes: 3", "batch: 0"])
def test_the_command_line_ends_with_code_2_one_line_and_nothing_written(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text(text(train=f"{{steps: 10, {name}}}", output="out"))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["train", "run.yaml"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("mmalign: run.yaml: train") and TRAIN[name][0] in captured.err
    assert [p.name for p in tmp_path.iterdir()] == ["run.yaml"]


def test_scalars_mean_what_they_look_like() -> None:
    source = """{a: 5e-6, b: 1e5, c: no, d: 012, e: 2024-01-01, f: 1_000,
        g: true, h: ~, i: .5, j: -3, k: 0x1F, l: 1:30}"""
    assert parse(source, "here") == {
        "a": 5e-6, "b": 1e5, "c": "no", "d": "012", "e": "2024-01-01", "f": "1_000",
        "g": True, "h": None, "i": 0.5, "j": -3, "k": "0x1F", "l": "1:30",
    }  # fmt: skip


@pytest.mark.parametrize("written", ["5e-6", "5.0e-6", "'5e-6'", "0.000005", "5E-6"])
def test_small_learning_rates_are_numbers(written: str, tmp_path: Path) -> None:
    assert loaded(tmp_path, text(train=f"{{steps: 10, lr: {written}}}")).train.lr == 5e-6


def test_a_byte_order_mark_and_windows_line_ends_are_fine(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbf" + text().replace("\n", "\r\n").encode()
    assert loaded(tmp_path, content) == loaded(tmp_path, text())
