"""`check` of models that know no clips: frames that are handed over as pictures count as a clip's tokens."""

import json
from pathlib import Path
from typing import Any

import pytest
from more_vlm import MORE, save_more
from tiny_vlm import picture, save_vlm

from mmalign.config import from_tree
from mmalign.training.inspection.check import inspect

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("family", ["smolvlm", "internvl"])
def test_token_tables_tell_clips_from_pictures(tmp_path: Path, family: str) -> None:
    """Four places for each of three frames; every other row has a picture, in InternVL beside the clip."""
    (tmp_path / "clip").mkdir()
    for frame in range(3):
        picture(frame, (32, 32)).save(tmp_path / "clip" / f"{frame}.png")
    picture(7, (32, 32)).save(tmp_path / "still.png")
    clip, still = {"videos": [{"video": "clip", "fps": 2}]}, {"images": ["still.png"]}
    beside = clip if family == "internvl" else {}  # SmolVLM takes either
    rows: list[dict[str, Any]] = []
    for number in range(4):
        row = {"id": str(number), "prompt": f"what is {number}?", "chosen": "a fox", "rejected": "sky"}
        rows.append(row | ({**still, **beside} if number % 2 else clip))
    data = tmp_path / "pairs.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = (save_more if family in MORE else save_vlm)(family, tmp_path / "model")
    tree = {
        "model": {"adapter": "video_lm", "path": str(path), "frames": {"count": 3}},
        "data": {"source": "jsonl", "path": str(data)},
        "objective": {"name": "dpo"},
        "train": {"steps": 1, "batch": 2},
        "output": str(tmp_path / "never"),
    }
    found = inspect(from_tree(tree, "test"))
    assert not found.findings
    chosen = {one.kind: one for one in found.tokens if one.what == "chosen"}
    assert list(chosen) == ["prompt", "image", "video", "response", "all"]
    assert (chosen["video"].minimum, chosen["video"].maximum) == (12 if beside else 0, 12)
    assert chosen["image"].minimum == 0 < chosen["image"].maximum
    for sample in found.samples:
        first = sample.responses[0]
        shown = any(line.startswith("the model reads video 1: 3 frames of ") for line in first.media)
        assert shown == (first.counts["video"] == 12) == (first.text.count("<video: 4 places") == 3)
        assert shown == (int(sample.id) % 2 == 0 or bool(beside))
