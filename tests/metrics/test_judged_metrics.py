"""Judged metrics: a language model is asked on the metric's scale, and one that tells another is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from metrics import test_green, test_mm_vet, test_mmhal, test_tempcompass

from mmalign import metrics
from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.metrics._resampling import figures
from mmalign.metrics.green import Green
from mmalign.metrics.mm_vet import MmVet
from mmalign.metrics.mmhal import Mmhal
from mmalign.metrics.tempcompass import Tempcompass
from mmalign.types import Message, UserError


def said(turns: tuple[Message, ...], seed: int) -> str:
    """What the answer says, in the form that the question asks for."""
    text = turns[0].parts[-1].data
    form = "Rating" if 'End with "Rating: "' in text else "Final Score"
    told = re.findall(r"(?:nswer|description): it is (\S+)", text)
    return f"**{form}:** {told[-1]}"


def judge(**more: Any) -> dict[str, Any]:
    writer = {"name": "python_function", "function": f"{__name__}:said"}
    return {"name": "llm_judge", "writer": writer, **more}


def mm_vet(folder: Path, **more: Any) -> MmVet:
    return MmVet(test_mm_vet.bench(folder).questions, "photos", judge(**more))


def mmhal(folder: Path, **more: Any) -> Mmhal:
    return Mmhal(test_mmhal.bench(folder, test_mmhal.rows()).questions, "photos", judge(**more))


def tempcompass(folder: Path, **more: Any) -> Tempcompass:
    made = test_tempcompass.bench(folder, captioning=test_tempcompass.WRITTEN)
    return Tempcompass(made.questions, "clips", judge=judge(**more))


def test_a_language_model_grades_on_the_metrics_own_scale(tmp_path: Path) -> None:
    metric = mm_vet(tmp_path)
    metric.ready()
    items = metric.grade({"v1_0": "it is 1.0", "v1_1": "it is 0.5", "v1_2": "it is 0.0"})
    found = figures(metric, items)
    assert found["score"].value == 50 and found["unread"].value == 0
    rated = mmhal(tmp_path)
    rated.ready()
    items = rated.grade({"1": "it is 6", "2": "it is 3", "3": "it is 10", "4": "it is 4.5"})
    found = figures(rated, items)
    assert found["score"].value == 9 / 4 and found["unread"].value == 0.5
    captions = tempcompass(tmp_path)
    captions.ready()
    ids = [one.id for one in captions.ask()]
    assert (
        figures(captions, captions.grade(dict(zip(ids, ["it is 1", "it is 0"], strict=True))))["acc"].value
        == 0.5
    )


@pytest.mark.parametrize("made", [mm_vet, mmhal, tempcompass])
def test_another_scale_is_refused_before_anything_is_generated(made: Any, tmp_path: Path) -> None:
    template = '{prompt} {response} End with "Final Score: " and a number from 1 to 10.'
    for more in ({"low": 1.0, "high": 10.0, "template": template}, {"high": 5.0}):
        with pytest.raises(UserError, match=r"'s scale; set low: 0, high: \d, whole: \w+ and a template"):
            made(tmp_path, **more).ready()


def test_whole_numbers_alone_are_no_grades(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match="judge: low: 0, high: 1, whole: true and its template are not mm_vet's"
    ):
        mm_vet(tmp_path, whole=True).ready()
    with pytest.raises(UserError, match="set low: 0, high: 6, whole: true"):
        mmhal(tmp_path, whole=False).ready()


def test_green_has_no_template_for_a_language_model(tmp_path: Path) -> None:
    questions = str(test_green.write_rows(tmp_path / "q.jsonl", test_green.ROWS))
    with pytest.raises(
        UserError, match="not green's scale; set low: 0, high: 1, whole: false and a template"
    ):
        Green(questions, "x", judge()).ready()
    Green(questions, "x", judge(template="{prompt} {response} GREEN, 0 to 1?")).ready()


def test_the_settings_that_the_page_shows_are_accepted() -> None:
    text = (Path(metrics.__file__).parent / "README.md").read_text()
    shown = [yaml.safe_load(body) for body in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)][-1]
    listed = shown["evaluation"]["metrics"]
    assert [one["name"] for one in listed] == ["mm_vet", "mmhal", "tempcompass"]
    for one in json.loads(json.dumps(listed)):
        built = build_named(KINDS["metrics"], one, "metric", False)
        assert built.asked_judge.low == 0.0
