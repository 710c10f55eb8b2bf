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

from mmalign.clips import Clip
from mmalign.evaluation import comparison as comparisons
from mmalign.evaluation.compare import Prompt, Switch, compare
from mmalign.evaluation.comparison import Answered, Comparison
from mmalign.evaluation.means import t95
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
    return compare(Drawing(), switch(Shift(0.0)), switch(Shift(0.25)), listed, [Reading()], batch, seed)


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
    compare(adapter, switch(Shift(0.0)), switch(Shift(1.0)), prompts(5), [], 2, 0)
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
    assert t95(degrees) == pytest.approx(value, abs=within)


def test_pictures_come_back_from_the_folder(tmp_path: Path) -> None:
    seen = Image.new("RGB", (4, 4), (9, 8, 7))
    turns = (Message("user", (Part("image", seen), Part("text", "draw this <b>"))),)
    result = compare(Drawing("image"), switch(Shift(0.0)), switch(Shift(0.2)), [("a", turns)], [], 4, 3)
    result.write(tmp_path)
    names = {path.name for path in (tmp_path / "evaluation").iterdir()}
    assert names == {"results.json", "base-000.png", "tuned-000.png", "prompt-000-0.png"}
    again = comparisons.read(tmp_path)
    assert again is not None and again.seed == 3 and again.win_rate is None and again.means == {}
    assert again.step is None
    assert again.rows[0].text == "[image] draw this <b>"
    for ours, theirs in zip(_shown(again.rows[0]), _shown(result.rows[0]), strict=True):
        assert np.array_equal(np.asarray(ours.data), np.asarray(theirs.data))


def test_the_step_comes_back_and_older_files_have_none(tmp_path: Path) -> None:
    path = replace(run(), step=12).write(tmp_path)
    found = comparisons.read(tmp_path)
    assert found is not None and found.step == 12
    tree = json.loads(path.read_text())
    del tree["step"]
    path.write_text(json.dumps(tree))
    older = comparisons.read(tmp_path)
    assert older is not None and older.step is None and older.rows == found.rows


def _shown(row: Answered) -> list[Part]:
    return [row.base, row.tuned, *row.media]


def test_texts_and_scores_come_back_from_the_folder(tmp_path: Path) -> None:
    odd = [("é\ud800", (Message("system", (Part("text", "be brief"),)), *prompts(1)[0][1])), prompts(2)[1]]
    result = run(listed=odd)
    first = result.write(tmp_path).read_bytes()
    assert comparisons.read(tmp_path) == result
    assert result.rows[0].text == "system: be brief\nuser: number 0?"
    assert run(listed=odd).write(tmp_path).read_bytes() == first  # no time, no path
    assert json.loads(first)["win_rate"]["rate"] == 1.0
    assert json.loads(first)["means"]["score"]["difference"] == pytest.approx(0.25, abs=1e-6)


def test_an_earlier_evaluation_is_replaced(tmp_path: Path) -> None:
    compare(Drawing("image"), switch(Shift(0.0)), switch(Shift(1.0)), prompts(3), [], 4, 0).write(tmp_path)
    (tmp_path / "evaluation" / "mine.png").write_bytes(b"kept")
    compare(Drawing("image"), switch(Shift(0.0)), switch(Shift(1.0)), prompts(1), [], 4, 0).write(tmp_path)
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
            compare(Drawing(), switch(Shift(0.0)), switch(Shift(1.0)), prompts(1), [Constant(scores)], 1, 0)
    clip = Part("video", [Image.new("RGB", (2, 2))])
    with pytest.raises(UserError, match="got video"):
        Comparison((Answered("v", "x", (), clip, clip, {}, {}),), 0).write(tmp_path)
    assert not (tmp_path / "evaluation").exists()


def test_reading_what_is_no_comparison(tmp_path: Path) -> None:
    assert comparisons.read(tmp_path) is None
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
            comparisons.read(tmp_path)
    path.write_text("{")
    with pytest.raises(UserError, match="results.json: not a comparison"):
        comparisons.read(tmp_path)


def test_costs_of_a_judge_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run().costs == ()
    monkeypatch.setattr(Reading, "costs", frozenset({"length"}), raising=False)
    run().write(tmp_path)
    again = comparisons.read(tmp_path)
    assert again is not None and again.costs == ("length",)
    (judge,) = again.judges
    assert (judge.name, judge.words) == ("Reading", "Scores a text by the number it says.")


class Shortness:
    """Likes short texts. Says of itself that it is new."""

    unchecked = True

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        return {"score": -float(len(response.data)), "first": float(response.data[0])}


def several(judges: Sequence[object]) -> Comparison:
    return compare(Drawing(), switch(Shift(0.0)), switch(Shift(0.25)), prompts(5), judges, 2, 0)  # type: ignore[arg-type]


def test_the_first_of_several_judges_decides(tmp_path: Path) -> None:
    result = several([Reading(), Shortness(), Shortness()])
    assert [judge.name for judge in result.judges] == ["Reading", "Shortness", "Shortness 2"]
    assert [judge.unchecked for judge in result.judges] == [False, True, True]
    assert result.totals == ["score", "Shortness/score", "Shortness 2/score"]
    assert result.names == [*result.totals, "length", "Shortness 2/first", "Shortness/first"]
    assert result.win_rate == several([Reading()]).win_rate == result.win_rates["score"]
    other = result.win_rates["Shortness/score"]
    assert (other.ties, other.rate, other.decided_rate) == (1.0, 0.5, None)  # "0.123456" is as long as any
    result.write(tmp_path)
    assert comparisons.read(tmp_path) == result
    tree = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert list(tree["win_rates"]) == result.names and tree["judges"][1]["unchecked"] is True


def test_which_of_several_judges_refused() -> None:
    with pytest.raises(UserError, match="evaluation: Constant: prompt 'p0': the judge gives no 'score'"):
        several([Reading(), Constant({"iou": 1.0})])


def test_less_of_a_cost_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Reading, "costs", frozenset({"score"}), raising=False)
    assert run().win_rate is not None and run().win_rate.losses == 5


def test_groups_have_rates_of_their_own(tmp_path: Path) -> None:
    groups = {"p0": {"style": ("photo",)}, "p1": {"style": ("anime", "photo")}, "p2": {"tag": ("two",)}}
    result = run().grouped(groups)
    rates = result.group_rates("score")
    assert [(key, rate.num) for key, rate in rates.items()] == [
        (("style", "anime"), 1),
        (("style", "photo"), 2),
        (("tag", "two"), 1),
    ]
    assert result.win_rate == run().win_rate
    result.write(tmp_path)
    assert comparisons.read(tmp_path) == result
    tree = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert [(row["group"], row["win_rate"]["num"]) for row in tree["groups"]] == [
        ("anime", 1),
        ("photo", 2),
        ("two", 1),
    ]


def test_a_clip_for_an_answer_is_kept_as_its_frames(tmp_path: Path) -> None:
    frames = torch.zeros(3, 3, 8, 8, dtype=torch.uint8)
    clip = Clip(frames, (0, 1, 2), (0.0, 0.1, 0.2), 10.0, 3, "memory")

    class Filming:
        def generate(self, model: object, prompts: Sequence[object], seeds: Sequence[int]) -> list[Part]:
            return [Part("video", clip) for _ in prompts]

    result = compare(Filming(), switch(Shift(0.0)), switch(Shift(1.0)), prompts(1), [], 1, 0)  # type: ignore[arg-type]
    assert result.rows[0].base.kind == "image" and result.rows[0].base.data.size == (28, 8)
    result.write(tmp_path)


class Mumbling(Reading):
    """Has no verdict on numbers below a bound."""

    def __init__(self, bound: float) -> None:
        self.bound = bound

    def verdicts(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float] | None]:
        numbers = [float(response.data) for response in responses]
        return [None if number < self.bound else {"score": number} for number in numbers]


def test_verdicts_that_cannot_be_read_are_left_out_and_counted(tmp_path: Path) -> None:
    whole = run()
    drawn = sorted(float(row.base.data) for row in whole.rows)
    judges = [Mumbling(drawn[2]), Reading()]
    result = compare(Drawing(), switch(Shift(0.0)), switch(Shift(0.25)), prompts(5), judges, 2, 0)
    low = sum(number + 0.25 < drawn[2] for number in drawn)
    assert result.unread == {"Mumbling": 2 + low}
    assert result.win_rate is not None and result.win_rate.num == 3 == result.means["score"].num
    assert result.win_rates["Reading/score"].num == 5
    line = f"Mumbling: {2 + low} of 10 verdicts could not be read; their prompts are left out"
    assert line in result.lines() and result.figures()["unread"] == {"Mumbling": 2 + low}
    result.write(tmp_path)
    back = comparisons.read(tmp_path)
    assert back is not None and back.unread == result.unread and back.win_rates == result.win_rates
    with pytest.raises(UserError, match="evaluation: Mumbling: for no prompt can its verdicts on both"):
        compare(Drawing(), switch(Shift(0.0)), switch(Shift(0.0)), prompts(3), [Mumbling(9.0)], 2, 0)
