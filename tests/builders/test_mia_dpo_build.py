"""Builds of MIA-DPO on the built-in model that looks: their files, kills, processes, training, refusals."""

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_lm, tiny_vlm
from builders.builds import content, load_in_turn
from PIL import Image
from training.faults import ALONE, crash_at, in_child, on_threads, record_operations
from training.tiny_runs import losses

import mmalign
from mmalign import config as configs
from mmalign.adapters.text import Text
from mmalign.builders import _config
from mmalign.builders._originals import BROKEN
from mmalign.builders._run import build
from mmalign.builders.mia_dpo import FREQUENT, MEDIA, MiaDpo
from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.training.run import run
from mmalign.types import UserError

ROOT = Path(mmalign.__file__).parent.parent
ROWS = 8


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(output: Path, *overrides: str) -> _config.BuildConfig:
    """The shipped config, with few rows."""
    small = [f"num_prompts={ROWS}", "batch=3", "model.generation.max_new_tokens=12", "log.progress=false"]
    shown = ["builder.collage.counts=[2]", "builder.collage.share=[0.7]"]
    return _config.load(
        ROOT / "configs/build/mia_dpo.yaml",
        [f"model.path={ROOT}/mmalign/shapes/models/vlm", *small, *shown, f"output={output}", *overrides],
    )


def rows_of(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "pairs.jsonl").read_text().splitlines()]


def made(output: Path) -> dict[str, bytes]:
    """The files but the two that name settings."""
    return {n: v for n, v in content(output).items() if n not in ("config.yaml", "build.json")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An undisturbed build."""
    return build(config(tmp_path_factory.mktemp("mia") / "built"), ALONE)


def test_rows_hold_clean_pictures_and_say_how_they_came_about(built: Path) -> None:
    found = rows_of(built)
    record = json.loads((built / "build.json").read_text())
    assert "judge" not in record and len(found) >= 3
    assert record["kept"]["pairs"] + sum(record["left_out"].values()) == ROWS
    samples = load(Jsonl(path=str(built / "pairs.jsonl"))).samples
    layouts = set()
    for sample, row in zip(samples, found, strict=True):
        told = row["built"]
        layouts.add(told["layout"])
        assert "judge" not in told and told["perplexity"] > 1.0 and row["chosen"] != row["rejected"]
        (turn,) = decode(sample, None).examples["chosen"][0].prompt
        pictures = [part.data for part in turn.parts if part.kind == "image"]
        text = "".join(part.data for part in turn.parts if part.kind == "text")
        assert len(pictures) == (told["pictures"] if told["layout"] == "sequence" else 1)
        limits = {"sequence": {2: 0.8, 3: 0.7}, "collage": {2: 0.7}, "pic_in_pic": {2: 0.8}}
        assert 0 <= told["share"] <= limits[told["layout"]][told["pictures"]]
        if told["layout"] != "pic_in_pic":
            assert f"In Image{told['target']}, " in text
        if told["layout"] == "collage":
            side = 2 * 48 + 48 * 40 // 448
            assert pictures[0].size == (side, side)
            colours = pictures[0].getcolors(side * side)
            assert colours is not None and max(colours)[1] == (255, 255, 255)
    assert len(layouts) >= 2
    assert all(name.endswith(".png") for name in content(built) if name.startswith("media/"))


def test_batches_and_processes_give_the_same_pairs(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert made(build(config(tmp_path / "other", "batch=8"), ALONE)) == made(built)
    load_in_turn(monkeypatch)
    results = on_threads(2, lambda world: build(config(tmp_path / "two"), world))
    assert results == [tmp_path / "two"] * 2
    assert made(tmp_path / "two") == made(built)


def test_closed_answers_are_balanced_over_all_processes(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_in_turn(monkeypatch)
    output, balance = tmp_path / "two", "builder.balance=[a, yes]"
    on_threads(2, lambda world: build(config(output, balance), world))
    chosen = {row["id"]: row["chosen"].split()[0] for row in rows_of(built)}
    least = min(Counter(chosen.values())[one] for one in ("a", "yes"))
    kept = [row["id"] for row in rows_of(output)]
    assert Counter(chosen[name] for name in kept) == {"a": least, "yes": least}
    record = json.loads((output / "build.json").read_text())
    assert record["left_out"][FREQUENT] == len(chosen) - len(kept) > 0
    named = {
        part["image"] for row in rows_of(output) for part in row["prompt"][0]["content"] if "image" in part
    }
    assert {f"media/{one.name}" for one in (output / "media").iterdir()} == named


def test_a_killed_build_goes_on(built: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        operations = record_operations(patch)
        build(config(tmp_path / "counted"), ALONE)
    last = max(k for k, name in enumerate(operations) if name == "rename" and k < len(operations) * 2 // 3)
    place = tmp_path / "out"

    def killed() -> None:
        with pytest.MonkeyPatch.context() as patch:
            crash_at(patch, last, "before")
            build(config(place), ALONE)

    assert in_child(killed) == 137
    assert 0 < len(list((place / "parts").iterdir())) < ROWS
    build(config(place), ALONE)
    assert made(place) == made(built)


def test_dpo_with_an_anchor_trains_on_what_was_built(built: Path, tmp_path: Path) -> None:
    overrides = [
        f"model.path={ROOT}/mmalign/shapes/models/vlm",
        f"data.path={built}/pairs.jsonl",
        f"output={tmp_path}/trained",
        "train.steps=2",
        "train.batch=2",
        "train.warmup_steps=0",
        "log={every: 1, progress: false}",
    ]
    trained = run(configs.load(ROOT / "configs/build/train_on_mia_dpo.yaml", overrides))
    first, second = losses(trained)
    assert (
        first > math.log(2) and math.isfinite(second) and first != second
    )  # ln 2, and a tenth of the anchor


def test_broken_pictures_are_no_distractors(tmp_path: Path) -> None:
    rows = []
    for number in range(4):
        Image.new("RGB", (24, 24), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
        rows.append(
            {"prompt": "<image>\nWhat is it?", "completion": "a dark square", "images": [f"{number}.png"]}
        )
    (tmp_path / "1.png").write_bytes(b"none")
    rows += [{"prompt": "What is it?", "completion": "nothing"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    more = [
        "prompts={source: jsonl, path: " + f"{tmp_path}/rows.jsonl, on_error: skip" + "}",
        "num_prompts=null",
    ]
    more += ["builder.layouts=[sequence]", "builder.sequence={counts: [3], share: [0.99]}", "builder.cell=24"]
    output = build(config(tmp_path / "out", *more), ALONE)
    record = json.loads((output / "build.json").read_text())
    assert record["left_out"][BROKEN] == 1
    assert record["left_out"][MEDIA] == 1
    assert "1.png" in record["skipped"][0]
    assert record["kept"]["pairs"] + sum(record["left_out"].values()) == 5
    dark = {(60 * n, 0, 0) for n in (0, 2, 3)}
    for name in (output / "media").iterdir():
        assert Image.open(name).getpixel((0, 0)) in dark


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A text model, and two that look whose places are four, or lie in tiles."""
    base = tmp_path_factory.mktemp("models")
    tiny_lm.save_tiny(base / "text", "llama")
    for family in ("llava", "smolvlm"):
        tiny_vlm.save_vlm(family, base / family)
    return base


@pytest.mark.parametrize(
    ("model", "overrides", "told"),
    [
        (
            "text",
            ["model={adapter: text, path: FOLDERS/text, generation: {}}"],
            "holds images, and the model reads none",
        ),
        ("llava", ["builder.collage={counts: [3], share: [0.5]}"], "2 rows and 2 columns of places, too few"),
        ("smolvlm", ["builder.layouts=[collage]", "builder.cell=448"], "stand in no grid"),
        ("llava", ["builder.layer=7"], "builder: layer: must be from 0 to 1"),
        ("llava", ["judge=brightness"], "judge: builder mia_dpo asks none"),
        ("llava", ["prompts=prompts.txt"], "reads the answers of a data source"),
    ],
)
def test_what_cannot_be_built_is_refused(
    folders: Path, tmp_path: Path, model: str, overrides: list[str], told: str, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("what is it?\n")
    given = [one.replace("FOLDERS", str(folders)) for one in overrides]
    with pytest.raises(UserError, match=told) as caught:
        build(config(tmp_path / "out", f"model.path={folders / model}", *given), ALONE)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_model_without_attention_is_refused(folders: Path) -> None:
    adapter: Any = Text(str(folders / "text")).build(torch.device("cpu"))
    with pytest.raises(UserError, match="CausalLM tells no attention; use adapter vlm"):
        MiaDpo().ready_for(adapter)
