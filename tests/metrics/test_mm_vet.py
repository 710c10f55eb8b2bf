"""MM-Vet: grades by capability, unread verdicts left out."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from mmalign.metrics._measured import measured
from mmalign.metrics.mm_vet import MmVet
from mmalign.types import Message, Part, UserError


@dataclass(frozen=True)
class Says:
    """The number that the answer is, for a right answer that is seen in the prompt."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        assert "Right answer: a cat" in prompt[0].parts[0].data
        return {"score": float(response.data)}


@dataclass(frozen=True)
class Reads:
    """The number that an answer is; no verdict on what is none."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        raise AssertionError("answers are graded together")

    def verdicts(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[dict[str, float] | None]:
        return [{"score": float(one.data)} if one.data[:1].isdigit() else None for one in responses]


def bench(folder: Path, judge: str = "Says") -> MmVet:
    rows = {
        f"v1_{i}": {"imagename": f"{i}.jpg", "question": "What?", "answer": "a cat", "capability": listed}
        for i, listed in enumerate((["rec"], ["rec", "ocr"], ["ocr"]))
    }
    (folder / "mm-vet.json").write_text(json.dumps(rows))
    return MmVet(str(folder / "mm-vet.json"), "photos", {"name": f"metrics.test_mm_vet:{judge}"})


def test_unread_verdicts_are_left_out_and_counted(tmp_path: Path) -> None:
    metric = bench(tmp_path, "Reads")
    graded = metric.grade({"v1_0": "1.0", "v1_1": "none", "v1_2": "0.5"})
    found = measured(metric, "mm_vet", {"answers": graded})
    assert found.whole.sides["answers"]["score"].value == 75
    assert found.whole.sides["answers"]["unread"].value == pytest.approx(1 / 3)
    by_group = {block.group: block.sides["answers"]["score"].value for block in found.blocks[1:]}
    assert by_group == {"rec": 100, "ocr": 50} and graded[1].shown == {"grade": None}


def test_grades_by_capability(tmp_path: Path) -> None:
    metric = bench(tmp_path)
    (tmp_path / "a.json").write_text('{"v1_0": "1.0", "v1_1": "0.5", "v1_2": "0"}')
    given = metric.predictions(tmp_path / "a.json")
    found = measured(metric, "mm_vet", {"answers": metric.grade(given)})
    assert found.whole.sides["answers"]["score"].value == 50 and found.unchecked
    by_group = {block.group: block.sides["answers"]["score"].value for block in found.blocks[1:]}
    assert by_group == {"rec": 75, "ocr": 25}


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs 0 to 1"):
        bench(tmp_path).grade({"v1_0": "7"})
    (tmp_path / "mm-vet.json").write_text("[]")
    with pytest.raises(UserError, match="must be an object of questions by their ids"):
        MmVet(str(tmp_path / "mm-vet.json"), "photos", {"name": "metrics.test_mm_vet:Says"}).ask()
