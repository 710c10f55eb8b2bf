"""Single captioned pictures and clips: for SFT, with labels for KTO."""

from pathlib import Path
from typing import Any

import pytest
from data.format_rows import IMAGE_TEXT, answer_of, changed, prompt_of, read_rows

from mmalign.types import UserError


def test_captioned_files(tmp_path: Path) -> None:
    clip = {"file_name": "b.MP4", "caption": "a dog", "label": False, "score": 0.5}
    plain, labelled = read_rows(tmp_path, IMAGE_TEXT, clip).samples
    assert (prompt_of(plain, "chosen"), answer_of(plain, "chosen")) == ([("text", "a cat")], "image:a.png")
    assert (answer_of(labelled, "completion"), labelled.labels["binary"]) == ("video:b.MP4", 0.0)
    assert labelled.examples["completion"][0].labels == {"score": 0.5}


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"file_name": None}, "'file_name': is null"),
        ({"text": " "}, "'text': is empty"),
        ({"label": "yes"}, "'label': must be true or false, got 'yes'"),
        ({"split": "exclusive_win"}, "'split': 'exclusive_win' is read by source: diffusion_kto"),
    ],
)
def test_broken_rows(change: dict[str, Any], rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"row 1, field {rule}"):
        read_rows(tmp_path, changed(IMAGE_TEXT, **change))
