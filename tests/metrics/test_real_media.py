"""Benchmarks end to end on real photos and clips: a small model of random weights answers about them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from adapters.tiny_vlm import build_vlm, save_vlm
from torch import nn

from mmalign.adapters._text_sampling import Sampling
from mmalign.clips import Frames
from mmalign.evaluation.asking import Asker, Side
from mmalign.metrics._measured import measured
from mmalign.metrics.frame_shuffle import FrameShuffle
from mmalign.metrics.image_swap import ImageSwap


def test_pope_over_photos(test_data: Path, tmp_path: Path) -> None:
    """Answers do not depend on the batch, and other photos give some other answers."""
    folder = test_data / "image_text"
    lines = (folder / "coco_object_qa_pairs.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[::14]]
    asked = [
        {"question_id": i, "image": row["image"], "text": row["prompt"], "label": row["label"]}
        for i, row in enumerate(rows)
    ]
    (tmp_path / "pope.jsonl").write_text("".join(json.dumps(one) + "\n" for one in asked))
    metric = ImageSwap({"name": "pope", "questions": str(tmp_path / "pope.jsonl"), "images": str(folder)})
    adapter = build_vlm(save_vlm("llava", tmp_path / "model"), generation=Sampling(max_new_tokens=6))

    @contextmanager
    def model() -> Iterator[nn.Module]:
        yield adapter.policy.eval()

    questions = metric.ask()
    found = [
        Asker(adapter, None, tmp_path / str(batch), batch, 0, print).answers(
            Side("base", {}, model), questions
        )
        for batch in (4, 7)
    ]
    assert found[0] == found[1] and len(found[0]) == 2 * len(rows)
    changed = [found[0][str(i)] != found[0][f"{i}#swapped"] for i in range(len(rows))]
    assert any(changed)
    figures = measured(metric, "pope", {"base": metric.grade(found[0])}).whole.sides["base"]
    assert {"acc", "acc_swapped", "acc_drop", "yes_ratio"} <= figures.keys()


def test_shuffled_frames_of_a_clip(test_data: Path, tmp_path: Path) -> None:
    names = [f"{name}.mp4" for name in ("smpte_counter_10s", "chaplin_10s", "bbb_wake_5s")]
    rows = [
        {
            "videoID": name.removesuffix(".mp4"),
            "question_id": name,
            "question": "What?",
            "options": ["a", "b"],
            "answer": "A",
        }
        for name in names
    ]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    section = {"name": "video_mme", "questions": str(tmp_path / "q.json"), "videos": str(test_data / "video")}
    metric = FrameShuffle(section)
    adapter = build_vlm(
        save_vlm("qwen2_5_vl", tmp_path / "model"),
        video=True,
        generation=Sampling(max_new_tokens=6),
        frames=Frames(count=4, scale_to=56),
    )

    @contextmanager
    def model() -> Iterator[nn.Module]:
        yield adapter.policy.eval()

    with torch.no_grad():
        asker = Asker(adapter, adapter.frames, tmp_path, 2, 0, print)
        found = asker.answers(Side("base", {}, model), metric.ask())
    assert set(found) == {*names, *(f"{name}#shuffled" for name in names)}
    assert any(found[name] != found[f"{name}#shuffled"] for name in names)
    assert len(metric.grade(found)) == 6
