"""RLHF-V rows: texts as columns or as JSON in one column, pictures as bytes inside parquet or as paths."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bad_inputs import png
from data.format_rows import RLHF_V, answer_of, changed, prompt_of, read_rows

from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.data.parquet import Parquet

TEXTS = {key: RLHF_V[key] for key in ("question", "chosen", "rejected")}


def test_parquet_with_bytes_and_packed_texts(tmp_path: Path) -> None:
    rows = [
        {
            "ds_name": "RLHF-V",
            "image": {"bytes": png((9 + n, 5)), "path": f"{n}.png"},
            "text": json.dumps({**TEXTS, "question": f"What is {n}?"}),
            "origin_dataset": "coco",
            "origin_split": json.dumps({"split": "train"}),
            "idx": n,
            "image_path": f"images/{n}.png",
        }
        for n in range(2)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rlhfv.parquet")
    data = load(Parquet(path=str(tmp_path / "rlhfv.parquet")))
    assert data.report.lines()[0].endswith("read as rlhf_v rows (image, text)")
    assert "data: columns not used: ds_name 2, idx 2, origin_dataset 2, origin_split 2" in data.report.lines()
    prompts = [decode(sample).examples["rejected"][0].prompt for sample in data.samples]
    assert [(turn.speaker, turn.parts[0].data.size, turn.parts[1].data) for (turn,) in prompts] == [
        ("user", (9, 5), "What is 0?"),
        ("user", (10, 5), "What is 1?"),
    ]
    assert answer_of(data.samples[0], "chosen") == "A cat."


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"image": None, "image_path": "a.png"},
        {"image": ..., "image_path": "a.png"},
        {"question": "<image>What is it?"},
        {"question": ..., "chosen": ..., "rejected": ..., "text": json.dumps(TEXTS)},
        {"question": ..., "chosen": ..., "rejected": ..., "text": TEXTS},
    ],
)
def test_forms_that_mean_the_same(tmp_path: Path, change: dict[str, Any]) -> None:
    data = read_rows(tmp_path, changed(RLHF_V, **change))
    (sample,) = data.samples
    assert data.report.formats == {"rlhf_v": 1}
    assert prompt_of(sample, "chosen") == [("user", "image:a.png", "What is it?")]
    assert [answer_of(sample, role) for role in ("chosen", "rejected")] == ["A cat.", "A dog."]


def test_the_picture_stands_where_the_question_says(tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, changed(RLHF_V, question="Is <image> a cat?")).samples
    assert prompt_of(sample, "rejected") == [("user", "Is ", "image:a.png", " a cat?")]


def test_real_pictures(test_data: Path) -> None:
    path = str(test_data / "image_text" / "coco_object_qa_pairs.jsonl")
    data = load(Jsonl(path=path, format="rlhf_v", columns={"question": "prompt"}, limit=8))
    assert len(data.samples) == 8
    for sample in data.samples:
        (turn,) = decode(sample).examples["chosen"][0].prompt
        assert min(turn.parts[0].data.size) > 100 and turn.parts[1].data.endswith("?")
