"""Runs that ask what the picture is worth: spoilt pictures in mDPO, and the margin without them."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_vlm
from tiny_runs import WORDS, losses, metrics

from mmalign.config import RunConfig, from_tree
from mmalign.data._loader import Loader
from mmalign.training import run as training_run
from mmalign.training.run import run
from mmalign.training.step import Micro
from mmalign.types import Adapter, Example, Item, Message, Part, PreferenceSample, UserError

SEEN = (
    "margin_with_image",
    "margin_without_image",
    "image_share",
    "ranking_with_image",
    "ranking_without_image",
)
COUNT = 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny LLaVA, pairs that all have a picture (pairs.jsonl), and held-out pairs of which one has none and
    one is a picture without a word (mixed.jsonl)."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("seeing")
    tiny_vlm.save_vlm("llava", folder / "model")
    rows = []
    for i in range(COUNT):
        tiny_vlm.picture(i).save(folder / f"{i}.png")
        row = {"id": f"row-{i}", "prompt": f"what is it {i}?", "images": [f"{i}.png"]}
        rows.append({**row, "chosen": WORDS[i], "rejected": f"{WORDS[(i + 3) % 8]} perhaps"})
    write(folder / "pairs.jsonl", rows)
    held = [{**row, "id": f"held-{row['id']}"} for row in rows]
    del held[1]["images"]
    held[2]["prompt"] = [{"role": "user", "content": [{"type": "image"}]}]
    write(folder / "mixed.jsonl", held)
    yield folder
    torch.set_num_threads(threads)


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def config(folder: Path, output: str, **sections: Any) -> RunConfig:
    tree: dict[str, Any] = {
        "model": {"adapter": "vlm", "path": str(folder / "model")},
        "data": {"source": "jsonl", "path": str(folder / "pairs.jsonl")},
        "objective": {"name": "dpo"},
        "train": {"steps": 1, "batch": 4, "lr": 1e-3},
        "log": {"every": 1, "progress": False},
        "output": str(folder / output),
    }
    return from_tree({**tree, **sections}, "test")


def heldout(folder: Path) -> dict[str, Any]:
    return {"source": "jsonl", "path": str(folder / "mixed.jsonl")}


def first(output: Path) -> dict[str, float]:
    """Held-out metrics before the first step."""
    line = next(line for line in metrics(output) if "heldout/loss" in line)
    return {name.removeprefix("heldout/"): value for name, value in line.items()}


# ---------------------------------------------------------------- the margin without the picture


@pytest.fixture(scope="module")
def looked(folder: Path) -> Path:
    return run(config(folder, "looked", heldout=heldout(folder)))


def margin(adapter: Adapter, prompt: tuple[Message, ...], row: dict[str, Any]) -> float:
    """log p(chosen) - log p(rejected) of one hand-made pair."""
    examples = {role: (Example(prompt, (Part("text", row[role]),)),) for role in ("chosen", "rejected")}
    prepared = adapter.prepare(PreferenceSample("a", examples), ("chosen", "rejected"))
    batch = adapter.collate(adapter.encode([prepared]), ("chosen", "rejected"))
    with torch.no_grad():
        adapter.policy.eval()
        chosen, rejected = adapter.logprobs(adapter.policy, batch, {}, frozenset()).total().tolist()
    return float(chosen - rejected)


def test_margins_are_those_of_hand_made_pairs(folder: Path, looked: Path) -> None:
    """One row has no picture and one no words: both stay out, and the second is mentioned."""
    adapter = config(folder, "unused").model.build(torch.device("cpu"))
    rows = [json.loads(line) for line in (folder / "mixed.jsonl").read_text().splitlines()]
    with_image, without_image = [], []
    for number, row in enumerate(rows):
        if number in (1, 2):
            continue
        words = Part("text", row["prompt"])
        shown = Part("image", tiny_vlm.picture(number))
        with_image.append(margin(adapter, (Message("user", (shown, words)),), row))
        without_image.append(margin(adapter, (Message("user", (words,)),), row))
    found, count = first(looked), len(with_image)
    assert found["margin_with_image"] == pytest.approx(sum(with_image) / count, abs=1e-4)
    assert found["margin_without_image"] == pytest.approx(sum(without_image) / count, abs=1e-4)
    share = found["margin_with_image"] - found["margin_without_image"]
    assert found["image_share"] == pytest.approx(share, abs=1e-5) and abs(share) > 1e-3
    for name, values in (("ranking_with_image", with_image), ("ranking_without_image", without_image)):
        assert found[name] == pytest.approx(sum(value > 0 for value in values) / count)
    notes = json.loads((looked / "run.json").read_text())["notes"]
    assert any(
        note.startswith("held-out data: 1 of 7 rows with media cannot be read without") for note in notes
    )


@pytest.mark.parametrize(
    ("name", "sections"),
    {
        "small-batches": {"train": {"steps": 1, "batch": 4, "lr": 1e-3, "micro_batch": 3}},
        "coupled": {"objective": [{"name": "dpo"}, {"name": "sft", "reduction": "token_mean"}]},
        "no-reference": {"objective": {"name": "simpo"}},
        "cached": {"reference": {"name": "cached"}},
    }.items(),
)
def test_batches_and_objectives_do_not_move_the_margins(
    folder: Path, looked: Path, name: str, sections: dict[str, Any]
) -> None:
    expected, found = first(looked), first(run(config(folder, name, heldout=heldout(folder), **sections)))
    for key in SEEN:
        assert found[key] == pytest.approx(expected[key], abs=1e-4), key


def test_an_objective_without_a_pair_has_no_margin(folder: Path) -> None:
    output = run(config(folder, "sft", objective={"name": "sft"}, heldout=heldout(folder)))
    assert not set(first(output)) & set(SEEN)


# ---------------------------------------------------------------- spoilt pictures


@pytest.mark.parametrize("corruption", ["crop", "noise", "black", "other_image"])
def test_mdpo_starts_at_three_ln_2_and_sees_the_difference(folder: Path, corruption: str) -> None:
    objective = {"name": "mdpo", "corruption": corruption}
    output = run(config(folder, corruption, objective=objective, train={"steps": 2, "batch": 4, "lr": 1e-2}))
    start, later = losses(output)
    assert start == pytest.approx(3 * math.log(2), abs=1e-5) and later != start
    lines = [line for line in metrics(output) if f"logp/chosen_{corruption}" in line]
    assert all(abs(line[f"logp/chosen_{corruption}"] - line["logp/chosen"]) > 1e-3 for line in lines)


def test_a_cached_reference_sees_the_policy_s_spoilt_pictures(folder: Path) -> None:
    common: dict[str, Any] = {"objective": {"name": "mdpo"}, "train": {"steps": 3, "batch": 4, "lr": 1e-3}}
    with pytest.raises(UserError, match=r"views change every epoch; set views\.redraw=once"):
        run(config(folder, "refused", reference={"name": "cached"}, **common))
    once = {"views": {"redraw": "once"}, **common}
    live = run(config(folder, "live", **once))
    cached = run(config(folder, "from-cache", reference={"name": "cached"}, **once))
    assert losses(cached) == pytest.approx(losses(live), abs=1e-5)


def test_rows_without_a_picture_are_refused_or_left_out(folder: Path) -> None:
    held = heldout(folder)
    with pytest.raises(UserError, match=r"^mixed\.jsonl row 2: role 'chosen_crop' is made of .* holds no"):
        run(config(folder, "stops", objective={"name": "mdpo"}, data=held))
    assert not (folder / "stops").exists()
    output = run(config(folder, "skips", objective={"name": "mdpo"}, data={**held, "on_error": "skip"}))
    assert json.loads((output / "run.json").read_text())["data"]["left_out"] == 1
    (line,) = (output / "skipped.jsonl").read_text().splitlines()
    assert "holds no picture or video" in line


# ---------------------------------------------------------------- what held-out rows hold on to


def test_held_out_rows_come_one_by_one_and_let_go_of_their_pixels(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    held: list[set[str]] = []

    def steps(self: Loader, start: int = 0, stop: int | None = None) -> Iterator[list[Item]]:
        for items in plain_steps(self, start, stop):
            sizes.append(len(items))
            yield items

    def micro_batches(*given: Any) -> list[Micro]:
        micros = plain_batches(*given)
        rows = [row for micro in micros for item in micro.items for row in item.prepared.rows]
        held.append({name.rpartition(".")[2] for row in rows for name in row.data})
        return micros

    plain_steps, plain_batches = Loader.steps, training_run.micro_batches
    monkeypatch.setattr(Loader, "steps", steps)
    monkeypatch.setattr(training_run, "micro_batches", micro_batches)
    run(config(folder, "lean", heldout=heldout(folder)))
    assert sizes == [1] * COUNT + [4, 4]  # the held-out rows, the starting checks, the one step
    assert held and all("features" in names and "pixel_values" not in names for names in held)
