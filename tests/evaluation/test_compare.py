"""Comparisons of two real modules that answer with text or pictures drawn from the seeds they are given."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mmalign.evaluation import compare as comparing
from mmalign.evaluation.compare import Answered, Comparison, Prompt, Switch, compare
from mmalign.types import Message, Part, UserError, derive_seed


class Shift(nn.Module):
    """Adds its weight to what it is given."""

    def __init__(self, by: float) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values + self.by


class Drawing:
    """The part of an adapter that evaluation uses: a number from the seed, shifted by the model."""

    def __init__(self, kind: str = "text") -> None:
        self.kind_of_answer = kind
        self.batches: list[list[int]] = []

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        assert not torch.is_grad_enabled()
        self.batches.append(list(seeds))
        draws = [torch.rand((), generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        numbers = model(torch.stack(draws)).tolist()
        if self.kind_of_answer == "text":
            return [Part("text", f"{number:.6f}") for number in numbers]
        shades = [int(np.clip(number, 0, 1) * 255) for number in numbers]
        return [Part("image", Image.new("RGB", (8, 6), (shade, 0, 255 - shade))) for shade in shades]


class Reading:
    """Scores a text by the number it says."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        return {"score": float(response.data), "length": float(len(response.data))}


class Constant:
    """A judge that always says the same."""

    def __init__(self, scores: Mapping[str, float]) -> None:
        self.scores = scores

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        return self.scores


def switch(module: nn.Module) -> Switch:
    @contextmanager
    def opened() -> Iterator[nn.Module]:
        yield module

    return opened


def prompts(num: int) -> list[Prompt]:
    return [(f"p{i}", (Message("user", (Part("text", f"number {i}?"),)),)) for i in range(num)]


def run(batch: int = 2, listed: Sequence[Prompt] | None = None, seed: int = 0) -> Comparison:
    listed = prompts(5) if listed is None else listed
    return compare(Drawing(), switch(Shift(0.0)), switch(Shift(0.25)), listed, Reading(), batch, seed)


def test_both_models_answer_from_the_same_seeds() -> None:
    result = run()
    for number, row in enumerate(result.rows):
        seed = derive_seed(0, 0, f"p{number}", "sample")
        drawn = float(torch.rand((), generator=torch.Generator().manual_seed(seed)))
        assert float(row.base.data) == pytest.approx(drawn, abs=1e-6)
        assert float(row.tuned.data) == pytest.approx(drawn + 0.25, abs=1e-6)
        assert row.text == f"number {number}?"
    assert result.win_rate is not None and result.win_rate.wins == 5
    assert result.means["score"].difference == pytest.approx(0.25, abs=1e-6)


def test_batch_and_order_change_nothing_and_the_seed_does() -> None:
    assert run(batch=1) == run(batch=100)
    assert set(map(str, run(listed=prompts(5)[::-1]).rows)) == set(map(str, run().rows))
    assert run(seed=1).rows[0].base != run().rows[0].base


def test_batches_are_as_large_as_asked() -> None:
    adapter = Drawing()
    compare(adapter, switch(Shift(0.0)), switch(Shift(1.0)), prompts(5), None, 2, 0)
    assert [len(seeds) for seeds in adapter.batches] == [2, 2, 1, 2, 2, 1]
    assert adapter.batches[:3] == adapter.batches[3:]


def test_means_and_their_interval() -> None:
    # differences 1, 2, 3, 4, 5: mean 3, deviation sqrt(2.5), t(4) = 2.776 -> 3 +- 1.963
    text = Part("text", "x")
    rows = tuple(
        Answered(str(i), "x", (), text, text, {"score": 1.0, "iou": 2.0}, {"score": 1.0 + i, "iou": 2.0})
        for i in (1, 2, 3, 4, 5)
    )
    means = Comparison(rows, 0).means
    assert list(means) == ["score", "iou"]
    assert (means["score"].base, means["score"].tuned, means["score"].num) == (1.0, 4.0, 5)
    assert means["score"].low == pytest.approx(3 - 1.963, abs=2e-3)
    assert means["score"].high == pytest.approx(3 + 1.963, abs=2e-3)
    assert (means["iou"].difference, means["iou"].low, means["iou"].high) == (0.0, 0.0, 0.0)
    two = Comparison(rows[:2], 0).means["score"]
    assert (two.difference, two.low, two.high) == (1.5, None, None)


@pytest.mark.parametrize(
    ("degrees", "value", "within"), [(2, 4.303, 0.04), (4, 2.776, 2e-3), (30, 2.042, 1e-3)]
)
def test_students_t_against_the_tables(degrees: int, value: float, within: float) -> None:
    assert comparing._t95(degrees) == pytest.approx(value, abs=within)


def test_pictures_come_back_from_the_folder(tmp_path: Path) -> None:
    seen = Image.new("RGB", (4, 4), (9, 8, 7))
    turns = (Message("user", (Part("image", seen), Part("text", "draw this <b>"))),)
    result = compare(Drawing("image"), switch(Shift(0.0)), switch(Shift(0.2)), [("a", turns)], None, 4, 3)
    result.write(tmp_path)
    names = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert names == {"results.json", "base-000.png", "tuned-000.png", "prompt-000-0.png"}
    again = comparing.read(tmp_path)
    assert again is not None and again.seed == 3 and again.win_rate is None and again.means == {}
    assert again.step is None
    assert again.rows[0].text == "[image] draw this <b>"
    for ours, theirs in zip(_shown(again.rows[0]), _shown(result.rows[0]), strict=True):
        assert np.array_equal(np.asarray(ours.data), np.asarray(theirs.data))


def test_the_step_comes_back_and_older_files_have_none(tmp_path: Path) -> None:
    path = replace(run(), step=12).write(tmp_path)
    found = comparing.read(tmp_path)
    assert found is not None and found.step == 12
    tree = json.loads(path.read_text())
    del tree["step"]
    path.write_text(json.dumps(tree))
    older = comparing.read(tmp_path)
    assert older is not None and older.step is None and older.rows == found.rows


def _shown(row: Answered) -> list[Part]:
    return [row.base, row.tuned, *row.media]


def test_texts_and_scores_come_back_from_the_folder(tmp_path: Path) -> None:
    odd = [("é\ud800", (Message("system", (Part("text", "be brief"),)), *prompts(1)[0][1])), prompts(2)[1]]
    result = run(listed=odd)
    first = result.write(tmp_path).read_bytes()
    assert comparing.read(tmp_path) == result
    assert result.rows[0].text == "system: be brief\nuser: number 0?"
    assert run(listed=odd).write(tmp_path).read_bytes() == first  # no time, no path
    assert json.loads(first)["win_rate"]["rate"] == 1.0
    assert json.loads(first)["means"]["score"]["difference"] == pytest.approx(0.25, abs=1e-6)


def test_an_earlier_evaluation_is_replaced(tmp_path: Path) -> None:
    compare(Drawing("image"), switch(Shift(0.0)), switch(Shift(1.0)), prompts(3), None, 4, 0).write(tmp_path)
    (tmp_path / "evaluation" / "mine.png").write_bytes(b"kept")
    compare(Drawing("image"), switch(Shift(0.0)), switch(Shift(1.0)), prompts(1), None, 4, 0).write(tmp_path)
    names = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert names == {"results.json", "base-000.png", "tuned-000.png", "mine.png"}


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no prompts"):
        run(listed=[])
    with pytest.raises(UserError, match="'p0' occurs twice"):
        run(listed=prompts(1) * 2)
    with pytest.raises(ValueError, match="batch"):
        run(batch=0)
    for scores, word in (({"iou": 1.0}, "no 'score'"), ({"score": math.nan}, "not finite")):
        with pytest.raises(UserError, match=word):
            compare(Drawing(), switch(Shift(0.0)), switch(Shift(1.0)), prompts(1), Constant(scores), 1, 0)
    clip = Part("video", [Image.new("RGB", (2, 2))])
    with pytest.raises(UserError, match="got video"):
        Comparison((Answered("v", "x", (), clip, clip, {}, {}),), 0).write(tmp_path)
    assert not (tmp_path / "evaluation").exists()


def test_reading_what_is_no_comparison(tmp_path: Path) -> None:
    assert comparing.read(tmp_path) is None
    run().write(tmp_path)
    path = tmp_path / "evaluation" / "results.json"
    good = json.loads(path.read_text())
    outside = {"kind": "image", "file": "../secret.png"}  # it exists, and is not ours
    Image.new("RGB", (2, 2)).save(tmp_path / "secret.png")
    changes = [
        {"format": 99},
        {"rows": []},
        {"rows": [{**good["rows"][0], "base": outside}]},
        {"rows": [{**good["rows"][0], "base": {"kind": "image", "file": "base-000.png"}}]},  # not there
        {"rows": [{**good["rows"][0], "base_scores": {}}]},
        {"rows": [{"id": "a"}]},
    ]
    for change in changes:
        path.write_text(json.dumps(good | change))
        with pytest.raises(UserError, match="results.json: not a comparison"):
            comparing.read(tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match="results.json: not a comparison"):
        comparing.read(tmp_path)


def test_costs_of_a_judge_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run().costs == ()
    monkeypatch.setattr(Reading, "costs", frozenset({"length"}), raising=False)
    run().write(tmp_path)
    again = comparing.read(tmp_path)
    assert again is not None and again.costs == ("length",)
    assert again.judge == "Reading: Scores a text by the number it says."
