"""Pairs whose two sides share their words and differ in the prompt's picture alone."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import tiny_lm, tiny_vlm
from PIL import Image
from tiny_runs import WORDS, largest_gap, losses, metrics, weights

from mmalign.config import RunConfig, from_tree
from mmalign.data._media import decode
from mmalign.data._sides import flipped, is_identical
from mmalign.data._sources import load
from mmalign.data._views_media import media
from mmalign.data.jsonl import Jsonl
from mmalign.training.rows import few_samples
from mmalign.training.run import run
from mmalign.types import Adapter, Example, Message, Part, PreferenceSample, Prepared, UserError

LN2 = math.log(2)
COUNT = 6
SIDES = ("chosen", "rejected")


def shown(number: int) -> tuple[int, int]:
    """The pictures of a row's two sides, of different sizes."""
    return number // 2, 4 + number % 4


def size(number: int) -> tuple[int, int]:
    return 24 + 8 * number, 40


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A tiny Qwen2.5-VL, and the same pairs in two formats."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("picture-pairs")
    tiny_vlm.save_vlm("qwen2_5_vl", folder / "model")
    canonical, swift = [], []
    for number in range(8):
        tiny_vlm.picture(number, size(number)).save(folder / f"{number}.png")
    for number in range(COUNT):
        asked = {"role": "user", "content": f"what is it {number}?"}
        own, other = (f"{one}.png" for one in shown(number))
        row = {"id": f"row-{number}", "rejected_images": [other]}
        both = {"chosen": WORDS[number], "rejected": WORDS[number]}
        canonical.append({**row, "prompt": [asked], "chosen_images": [own], **both})
        messages = [{**asked, "content": f"<image>{asked['content']}"}]
        messages.append({"role": "assistant", "content": WORDS[number]})
        swift.append({**row, "messages": messages, "images": [own], "rejected_response": WORDS[number]})
    for name, rows in (("canonical", canonical), ("ms_swift", swift)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield folder
    torch.set_num_threads(threads)


def config(
    folder: Path, output: str, objective: dict[str, Any], data: str = "canonical", **more: Any
) -> RunConfig:
    tree: dict[str, Any] = {
        "model": {"adapter": "vlm", "path": str(folder / "model")},
        "data": {"source": "jsonl", "path": str(folder / f"{data}.jsonl")},
        "objective": {"beta": 1.0, **objective},
        "train": {"steps": 2, "batch": COUNT, "lr": 1e-3},
        "log": {"every": 1, "progress": False},
        "output": str(folder / output),
    }
    return from_tree({**tree, **more}, "test")


@pytest.mark.parametrize("form", ["canonical", "ms_swift"])
def test_formats_give_such_pairs(folder: Path, form: str) -> None:
    data = load(Jsonl(path=str(folder / f"{form}.jsonl")))
    assert data.report.formats == {form: COUNT} and data.report.identical == 0
    for number, sample in enumerate(map(decode, data.samples)):
        chosen, rejected = (sample.examples[role][0] for role in SIDES)
        assert chosen.response == rejected.response == (Part("text", WORDS[number]),)
        texts = [
            [p for turn in side.prompt for p in turn.parts if p.kind == "text"] for side in (chosen, rejected)
        ]
        assert texts[0] == texts[1] == [Part("text", f"what is it {number}?")]
        for side, picture in zip((chosen, rejected), shown(number), strict=True):
            (part,) = media((side,))
            assert np.array_equal(part.data, tiny_vlm.picture(picture, size(picture)))
        assert not is_identical(sample)
        (swapped,), _ = flipped([sample], 1.0)
        assert (swapped.examples["chosen"][0], swapped.examples["rejected"][0]) == (rejected, chosen)


def test_guidance_one_is_dpo_and_the_format_does_not_matter(folder: Path) -> None:
    dpo = run(config(folder, "dpo", {"name": "dpo"}))
    vdpo = run(config(folder, "vdpo-1", {"name": "vdpo", "guidance": 1.0}, "ms_swift"))
    assert losses(vdpo) == losses(dpo) and largest_gap(weights(vdpo, 2), weights(dpo, 2)) == 0.0
    assert losses(dpo)[0] == pytest.approx(LN2, abs=1e-6)
    assert losses(dpo)[1] < LN2 - 1e-3, "the pictures alone tell the sides apart"


def log_prob(adapter: Adapter, picture: Any, number: int) -> float:
    """log p(answer | picture, question) of one row, by hand."""
    prompt = (Message("user", (Part("image", picture), Part("text", f"what is it {number}?"))),)
    sample = PreferenceSample("a", {"chosen": (Example(prompt, (Part("text", WORDS[number]),)),)})
    batch = adapter.collate(adapter.encode([adapter.prepare(sample, ("chosen",))]), ("chosen",))
    with torch.no_grad():
        return float(adapter.logprobs(adapter.policy.eval(), batch, {}, frozenset()).total())


def test_guided_scores_are_of_each_sides_own_picture(folder: Path) -> None:
    """At the start h = (g - 1) (log p(y|v) - log p(y|v0)) of each side's v; v0 is black, in the size of v."""
    setting = config(folder, "vdpo", {"name": "vdpo", "guidance": 2.0, "picture": "black"})
    adapter = setting.model.build(torch.device("cpu"))
    gains = [
        [
            log_prob(adapter, tiny_vlm.picture(one, size(one)), number)
            - log_prob(adapter, Image.new("RGB", size(one)), number)
            for one in shown(number)
        ]
        for number in range(COUNT)
    ]
    expected = sum(math.log1p(math.exp(other - own)) for own, other in gains) / COUNT
    found = metrics(run(setting))[0]
    assert found["loss"] == pytest.approx(expected, abs=1e-5) and abs(expected - LN2) > 1e-3
    for role, side in zip(SIDES, zip(*gains, strict=True), strict=True):
        assert found[f"picture_gain/{role}"] == pytest.approx(sum(side) / COUNT, abs=1e-5)


TRAINED: dict[str, tuple[dict[str, Any], float | None]] = {
    "mdpo": ({"name": "mdpo"}, 3 * LN2),
    "vdpo-mean": ({"name": "vdpo", "picture": "mean_image", "mean_of": 2}, None),
}


@pytest.mark.parametrize("name", TRAINED)
def test_objectives_with_spoilt_pictures_train_on_them(folder: Path, name: str) -> None:
    objective, start = TRAINED[name]
    found = losses(run(config(folder, name, objective)))
    assert found[1] != found[0] and all(map(math.isfinite, found))
    assert start is None or found[0] == pytest.approx(start, abs=1e-5)


def test_a_mean_of_more_rows_than_there_are_is_refused(folder: Path) -> None:
    line = r"^canonical.jsonl row 1: role 'chosen_mean_image' is made of 8 rows .* and there are 2; add rows"
    with pytest.raises(UserError, match=line):
        run(config(folder, "too-many", {"name": "vdpo", "picture": "mean_image"}))


@pytest.mark.parametrize("picture", ["mean_image", "other_image"])
def test_a_probe_reads_on_until_rows_have_their_partners(folder: Path, picture: str) -> None:
    """The first two rows show the same picture."""
    objective = {"name": "vdpo", "picture": picture} | ({"mean_of": 2} if picture == "mean_image" else {})
    setting = config(folder, "unused", objective)
    items = few_samples(setting, setting.model.build(torch.device("cpu")), 2)
    assert len(items) == 2
    assert all({row.role for row in item.prepared.rows} >= {f"chosen_{picture}", *SIDES} for item in items)


def test_a_probe_prepares_no_more_rows_than_it_takes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many rows show one picture, so that none of them has a partner before the last row is read."""
    rows = [json.loads(line) for line in (folder / "canonical.jsonl").read_text().splitlines()]
    for name in ("one", "two"):
        many = [{**rows[0], "id": f"many-{i}"} for i in range(12)]
        many += [{**rows[-1], "id": "last"}] if name == "two" else []
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many))
    setting = config(folder, "unused", {"name": "vdpo", "picture": "other_image"}, data="two")
    adapter = setting.model.build(torch.device("cpu"))
    prepared, plain = list[str](), adapter.prepare

    def counted(sample: PreferenceSample, roles: Sequence[str]) -> Prepared:
        prepared.append(sample.id)
        return plain(sample, roles)

    monkeypatch.setattr(adapter, "prepare", counted)
    assert [item.id for item in few_samples(setting, adapter, 2)] == prepared and len(prepared) == 2
    with pytest.raises(UserError, match=r"^data: none of its 12 rows can be scored"):
        few_samples(
            config(folder, "unused", {"name": "vdpo", "picture": "other_image"}, data="one"), adapter, 2
        )


def test_rows_whose_only_partners_have_none_leave_the_others_to_a_probe(folder: Path) -> None:
    """The first row needs the second one, which shares pictures with all others."""
    rows = [json.loads(line) for line in (folder / "canonical.jsonl").read_text().splitlines()]
    shows = ([1, 3], [0, 2, 4], [0], [1, 2], [3, 4])
    for row, pictures in zip(rows, shows, strict=False):
        row["chosen_images"] = row["rejected_images"] = [f"{one}.png" for one in pictures]
        row["rejected"] = "another answer"
    (folder / "leaning.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:5]))
    objective = {"name": "vdpo", "picture": "mean_image", "mean_of": 2}
    setting = config(folder, "unused", objective, data="leaning")
    items = few_samples(setting, setting.model.build(torch.device("cpu")), 3)
    assert {item.id for item in items} == {"row-2", "row-3", "row-4"}


def test_a_model_of_text_refuses_them(folder: Path) -> None:
    text = {"adapter": "text", "path": tiny_lm.save_tiny(folder / "lm")}
    line = "row 1: chosen: prompt: holds a part of kind image, but this model reads text"
    with pytest.raises(UserError, match=line):
        run(config(folder, "text", {"name": "dpo"}, model=text))
