"""MMHal-Bench: ratings from 0 to 6, unread ones as 0, types by the order of questions."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mmalign.metrics._resampling import figures
from mmalign.metrics.mmhal import TYPES, Mmhal
from mmalign.types import Message, Part, UserError


@dataclass(frozen=True)
class LastDigit:
    """Rates an answer by the digit it ends in; None where it ends in none. It notes what it was asked."""

    scale: int = 1

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        (found,) = self.verdicts([prompt], [response])
        assert found is not None
        return found

    def verdicts(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float] | None]:
        assert all("Right answer: yellow" in turns[0].parts[0].data for turns in prompts)
        return [
            {"score": float(one.data[-1]) * self.scale} if one.data[-1:].isdigit() else None
            for one in responses
        ]


def rows(count: int = 8) -> list[dict[str, Any]]:
    return [
        {
            "question": f"What colour {i}?", "gt_answer": "yellow", "image_content": ["Fire hydrant"],
            "image_src": f"https://example.org/a/{i}.jpg", "model_answer": f"answer {i}",
        }
        for i in range(count)
    ]  # fmt: skip


def bench(folder: Path, listed: list[dict[str, Any]], **judge: Any) -> Mmhal:
    (folder / "q.json").write_text(json.dumps(listed))
    section = {"name": "metrics.test_mmhal:LastDigit", **judge}
    return Mmhal(str(folder / "q.json"), "photos", section)


def test_ratings(tmp_path: Path) -> None:
    """6, 3, 2 and one that cannot be read: mean 11/4, two below 3, informative (3 + 0 + 2 + 0) / 3 / 4."""
    metric = bench(tmp_path, rows())
    metric.ready()
    items = metric.grade({"1": "6", "2": "so 3", "3": "2", "4": "unclear"})
    found = {name: figure.value for name, figure in figures(metric, items).items()}
    assert found["score"] == 2.75 and found["hallucination_rate"] == 0.5 and found["unread"] == 0.25
    assert found["informativeness"] == pytest.approx(5 / 12)
    assert [item.groups["type"][0] for item in items] == list(TYPES[:4]) and metric.is_unchecked
    assert metric.ask()[2].turns[0].parts[0].data.name == "2.jpg"


def test_types_from_the_rows(tmp_path: Path) -> None:
    named = [row | {"question_type": "other"} for row in rows(3)]
    assert bench(tmp_path, named).grade({"1": "1"})[0].groups == {"type": ("other",)}
    with pytest.raises(UserError, match="has 7 rows; without question_type"):
        bench(tmp_path, rows(7)).ask()


def test_ids_counted_from_zero(tmp_path: Path) -> None:
    metric, given = bench(tmp_path, rows()), tmp_path / "a.json"
    for first in (0, 1):
        given.write_text(json.dumps([{"id": first + i, "model_answer": f"said {i}"} for i in range(8)]))
        assert metric.predictions(given) == {str(i + 1): f"said {i}" for i in range(8)}
    given.write_text(json.dumps([{"id": i, "model_answer": "?"} for i in range(7)]))
    with pytest.raises(UserError, match="has an id '0', and these ids count from 1"):
        metric.predictions(given)


def test_the_benchmarks_own_answer_file(tmp_path: Path) -> None:
    metric = bench(tmp_path, rows())
    given = tmp_path / "a.json"
    given.write_text(json.dumps(rows()))
    assert metric.predictions(given)["3"] == "answer 2"
    given.write_text(json.dumps(rows()[::-1]))
    with pytest.raises(UserError, match="a.json row 1: asks another question than row 1"):
        metric.predictions(given)


def test_another_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="question 1: the judge's score is 60; this metric needs 0 to 6"):
        bench(tmp_path, rows(), scale=10).grade({"1": "6"})


def test_the_real_file(test_data: Path) -> None:
    path = test_data / "image_text" / "eval" / "mmhal_bench.json"
    metric = Mmhal(str(path), "photos", {"name": "metrics.test_mmhal:LastDigit"})
    asked = metric.ask()
    assert len(asked) == 95 and {row.kind for row in metric._rows.values()} == set(TYPES)
    assert metric.predictions(path) == {one.id: "" for one in asked}
