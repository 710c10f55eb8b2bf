"""The quickstart configs of models that see: a few steps, the image-less margin, and a report with media."""

import json
import math
from pathlib import Path

import pytest
from PIL import Image

from mmalign import api

ROOT = Path(__file__).parents[2]
NAMES = {"vlm": {"recall", "hallucinates", "exact", "presence"}, "video": {"motion", "order", "habit"}}
SIZES = {"vlm": (48, 48), "video": (4 * 50 - 2, 48)}  # a picture; a strip of four frames


@pytest.mark.parametrize("modality", NAMES)
def test_it_trains_evaluates_and_reports(
    modality: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    run = api.train(
        f"configs/quickstart/{modality}.yaml",
        *("train.steps=2", "train.batch=4", "train.warmup_steps=0", "data.limit=8", "heldout.limit=8"),
        *("log.progress=false", f"output={tmp_path / 'run'}"),
    )
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    margins = [line for line in lines if "heldout/margin_without_image" in line]
    assert len(margins) == 2
    for line in margins:
        share = line["heldout/margin_with_image"] - line["heldout/margin_without_image"]
        assert math.isclose(line["heldout/image_share"], share, abs_tol=1e-4)
    comparison = api.evaluate(run, num_prompts=8)
    assert set(comparison.means) == {"score"} | NAMES[modality]
    assert all(row.media[0].data.size == SIZES[modality] for row in comparison.rows)
    with Image.open(run / "evaluation" / "prompt-000-0.png") as picture:
        assert picture.size == SIZES[modality]
    assert (run / "report.html").read_text().count('alt="picture in the prompt"') == 8


def test_mdpo_is_chosen_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for modality, view in (("vlm", "chosen_other_image"), ("video", "chosen_crop")):
        config = api.load_config(f"configs/quickstart/{modality}.yaml", "objective.name=mdpo")
        assert list(config.objective.views) == [view]
