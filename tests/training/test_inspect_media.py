"""`check` on pictures and clips: what the model gets of them, views, files, and what cannot be read."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data.clips import KINDS, numbers, video
from inspected import write
from PIL import Image
from tiny_runs import Bench, add_vision
from transformers import AutoProcessor

from mmalign.training.console import Console
from mmalign.training.inspection import files
from mmalign.training.inspection.check import Inspection, inspect
from mmalign.training.rows import load_data
from mmalign.training.world import World
from mmalign.types import UserError


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("bench"))
    add_vision(bench)
    yield bench
    torch.set_num_threads(threads)


def rows_of(bench: Bench, kind: str) -> list[dict[str, Any]]:
    """The rows that the bench has for a kind of run."""
    return [json.loads(line) for line in Path(bench.data[kind]["path"]).read_text().splitlines()]


def beside(bench: Bench, kind: str, folder: Path) -> Path:
    """A copy of a kind's data to spoil; returns the folder."""
    shutil.copytree(Path(bench.data[kind]["path"]).parent, folder)
    return folder


def check(bench: Bench, kind: str, path: Path, **sections: Any) -> Inspection:
    data = {"source": "jsonl", "path": str(path)}
    return inspect(bench.config(kind, "never", data=data, **sections))


def test_image_rows(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    shutil.copytree(bench.folder / "pictures", folder)
    rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
    (folder / "chosen-2.png").write_bytes(b"")
    (folder / "chosen-5.png").write_bytes(b"")
    rows[7]["prompt"] = "a very long caption " * 30
    shutil.copy(folder / "chosen-0.png", folder / "copy-c.png")
    shutil.copy(folder / "rejected-0.png", folder / "copy-r.png")
    other = {
        "prompt": rows[0]["prompt"],
        "chosen": {"image": "copy-c.png"},
        "rejected": {"image": "copy-r.png"},
    }
    path = write(folder / "pairs.jsonl", rows)
    held = write(folder / "held.jsonl", [other | {"id": "h"}])
    data = {"source": "jsonl", "path": str(path)}
    found = inspect(bench.config("image", "never", data=data, heldout={**data, "path": str(held)}))
    (reason,) = found.reasons
    assert reason.count == 2 and "role 'chosen', image '…': the file is empty" in reason.rule
    (leak,) = found.leaks
    assert leak.what == "sample", "files of other names hold the same pictures"
    assert found.shortened["captions cut to fit"] == 1
    spread = {(one.what, one.kind): one for one in found.tokens}
    assert spread["chosen", "caption"].maximum == found.limit
    assert {one.what for one in found.media} == {"image"}
    assert found.sides is not None and found.sides.chosen_longer is None
    shown = found.samples[0].responses[0]
    assert shown.scored == "" and {"image-1", "model-1"} == set(shown.pictures)
    side = shown.pictures["model-1"].size
    assert f"the model reads picture: {side[0]}x{side[1]}" in shown.media
    assert found.trial is not None and found.trial.loss == pytest.approx(math.log(2), abs=1e-5)


def test_rows_without_a_picture_are_told_of_a_model_that_looks(bench: Bench, tmp_path: Path) -> None:
    rows = [{"prompt": f"what {n}?", "chosen": "a", "rejected": "b", "imag": "0.png"} for n in range(6)]
    path = write(tmp_path / "typo.jsonl", rows)
    found = check(bench, "vlm", path)
    (warning,) = [one for one in found.warnings if "none of 6 samples has a picture" in one]
    assert warning.startswith("training: ") and warning.endswith("set data.columns: {images: imag}")
    assert found.sound, "rows of text alone are legal"
    world = World(0, 1, torch.device("cpu"))
    console = Console(world, progress=False, quiet=True)
    load_data(bench.config("vlm", "never", data={"source": "jsonl", "path": str(path)}), world, console)
    assert [one.replace("warning: data", "training") for one in console.take_notes()] == [warning]


def test_mixed_rows_of_a_vision_model(bench: Bench, tmp_path: Path) -> None:
    """No, one and two pictures; the file of one is missing, another row answers with a picture."""
    folder = beside(bench, "vlm", tmp_path / "photos")
    rows = rows_of(bench, "vlm")
    rows[4]["prompt"][0]["content"][0]["image"] = "missing.png"
    rows[7]["prompt"][0]["content"][0]["image"] = "absent.png"
    rows[9]["chosen"] = {"image": "1.png"}
    found = check(bench, "vlm", write(folder / "pairs.jsonl", rows))
    missing, answer = found.reasons
    assert missing.count == 2 and missing.rows == ("pairs.jsonl row 5", "pairs.jsonl row 8")
    assert "image '…': no such file" in missing.rule
    assert answer.count == 1 and "must be text" in answer.rule
    assert found.usable == {"training": len(rows) - 3}
    assert found.trial is not None and found.trial.loss == pytest.approx(math.log(2), abs=1e-5)
    spread = {(one.what, one.kind): one for one in found.tokens}
    assert spread["chosen", "image"].minimum == 0, "a row without pictures"

    processor = AutoProcessor.from_pretrained(bench.model["vlm"]["path"])
    merged = processor.image_processor.merge_size**2
    places = []
    for number in range(6):
        with Image.open(folder / f"{number}.png") as picture:
            grid = processor.image_processor(picture.convert("RGB"), return_tensors="pt").image_grid_thw
        places.append(int(grid.prod()) // merged)
    used = [row for i, row in enumerate(rows) if i not in (4, 7, 9)]
    wanted = [
        sum(places[int(part["image"][0])] for part in content if part["type"] == "image")
        for content in (row.get("prompt_chosen", row.get("prompt"))[0]["content"] for row in used)
    ]
    assert spread["chosen", "image"].maximum == max(wanted)
    for one in found.samples:
        for response in one.responses:
            shown = response.text
            assert "<|image_pad|>" not in shown and shown.endswith("<|im_start|>assistant\n")
            assert shown.count("<image: ") == len(response.pictures)
            assert response.scored.endswith("<|im_end|>")
    pictured = next(r for one in found.samples for r in one.responses if r.pictures)
    (count, size) = pictured.text.split("<image: ")[1].split(">")[0].split(" places, ")
    width, height = map(int, size.split("x"))
    patch = processor.image_processor.patch_size
    assert int(count) == (width // patch) * (height // patch) // merged
    assert pictured.media[0].startswith("image 1 of the row: ")
    assert any(line == f"the model reads image 1: {size}" for line in pictured.media)


def test_views_are_shown_and_written(bench: Bench, tmp_path: Path) -> None:
    objective = {"name": "mdpo"}
    found = check(bench, "seeing", Path(bench.data["seeing"]["path"]), objective=objective)
    assert found.sound, found.findings
    files.write(found, tmp_path / "out")
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["findings"] == [] and len(report["samples"]) == 3
    roles = {one.role for one in found.samples[0].responses}
    assert roles == {"chosen", "rejected", "chosen_crop"}
    assert {one.what for one in found.tokens} == roles
    for number, sample in enumerate(report["samples"]):
        by_role = {one["role"]: one for one in sample["responses"]}
        original, view = by_role["chosen"], by_role["chosen_crop"]
        assert view["scored"] == original["scored"]
        assert len(view["pictures"]) == len(original["pictures"]) > 0
        for ours, theirs in zip(view["pictures"], original["pictures"], strict=True):
            assert ours.startswith(f"sample-{number}/chosen_crop-0-image-")
            with Image.open(tmp_path / "out" / ours) as made, Image.open(tmp_path / "out" / theirs) as whole:
                assert made.size == whole.size and made.tobytes() != whole.tobytes()
        text = (tmp_path / "out" / f"sample-{number}" / "chosen-0.txt").read_text()
        assert "⟦" + original["scored"] + "⟧" in text and "<image: " in text
    with pytest.raises(UserError, match="is not empty"):
        files.write(found, tmp_path / "out")


def test_rows_without_what_a_view_needs(bench: Bench, tmp_path: Path) -> None:
    folder = beside(bench, "vlm", tmp_path / "photos")
    prompts = [row.get("prompt_chosen", row.get("prompt")) for row in rows_of(bench, "vlm")]
    blind = sum("image" not in json.dumps(prompt) for prompt in prompts)
    said: list[str] = []
    data = {"source": "jsonl", "path": str(folder / "pairs.jsonl")}
    found = inspect(bench.config("vlm", "never", data=data, objective={"name": "mdpo"}), said.extend)
    (reason,) = found.reasons
    assert reason.count == blind > 0 and "the prompt holds no picture or video" in reason.rule
    assert found.trial is not None
    assert any(line.endswith("reference has 2.0794 = 3 ln 2") for line in said), "three terms of ratios"


def test_clips_are_told_frame_by_frame(bench: Bench, tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.mp4").write_bytes(video(KINDS["mpeg4"], count=20 + number, rate=10))
    (tmp_path / "cut.mp4").write_bytes((tmp_path / "0.mp4").read_bytes()[:300])
    rows = [
        {"id": f"c{i}", "prompt": f"what moves {i}?", "videos": [name], "chosen": "a fox", "rejected": "sky"}
        for i, name in enumerate(["0.mp4", "1.mp4", "cut.mp4", "2.mp4", "0.mp4"])
    ]
    model = {**bench.model["vlm"], "adapter": "video_lm", "frames": {"count": 4}}
    tree = {"model": model, "train": {"batch": 3}}
    found = check(bench, "vlm", write(tmp_path / "pairs.jsonl", rows), **tree)
    (reason,) = found.reasons
    assert reason.rows == ("pairs.jsonl row 3",) and "video '…'" in reason.rule
    assert {one.kind: one.maximum for one in found.media} == {"width": 64, "height": 48, "frames": 4}
    assert {one.kind for one in found.tokens} == {"prompt", "video", "response", "all"}
    by_id = {one.id: one for one in found.samples}
    some = next(iter(by_id.values()))
    total = 20 + int(rows[int(some.id[1])]["videos"][0][0])
    places = [i * (total - 1) // 3 for i in range(4)]
    response = some.responses[0]
    expected = f"4 of {total} frames of 64x48, read by pyav: frames {' '.join(map(str, places))} at "
    assert response.media[0].startswith(f"video 1 of the row: {expected}")
    assert f"at 0.00 {places[1] / 10:.2f} " in response.media[0]
    frames = torch.stack([_pixels(picture) for picture in response.pictures.values()])
    assert numbers(frames) == places
    assert response.text.count("<video: ") == 1 and "frames of " in response.text
    assert found.trial is not None


def _pixels(picture: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1)
