"""Rows and pictures that look wrong but are sound: taken, counted, and passed on unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bad_inputs import GOOD, png, write_rows
from cli_runs import call, refused, write_config
from PIL import Image
from training.tiny_runs import Bench

Capture = pytest.CaptureFixture[str]
ODD = "\u202etfel ot\u202c \u200fעברית\u200e e\u0301 \x07 a\u2028b \U0001f98a\t?"


def test_odd_rows_are_kept_counted_and_unchanged(capsys: Capture, bench: Bench, work: Path) -> None:
    """A byte order mark, CRLF, equal sides, marks of direction, control characters, no last line end."""
    rows = [
        {"prompt": ODD, "chosen": ODD + "!", "rejected": "no"},
        {"prompt": "same", "chosen": "a", "rejected": "a"},
        GOOD | {"comment": "not read"},
    ]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (work / "odd.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n\r\n".join(lines).encode())
    data = {"source": "jsonl", "path": "odd.jsonl"}
    model = {"generation": {"max_new_tokens": 2}}
    write_config(bench, "text", model=model, data=data, heldout=data, train={"steps": 1, "batch": 3})
    called = call(capsys, "train", "config.yaml")
    assert called.code == 0, called.err
    notes = json.loads((work / "out" / "run.json").read_text())["notes"]
    for line in (
        "data: 3 of 3 rows used (chosen 3, rejected 3)",
        "data: 1 pairs whose two sides are equal (kept; they carry no gradient)",
        "data: columns not used: comment 1",
    ):
        assert line in called.err.splitlines() and line in notes
    assert call(capsys, "evaluate", "out").code == 0
    shown = json.loads((work / "out" / "evaluation" / "results.json").read_text())["rows"]
    assert [row["text"] for row in shown] == [row["prompt"] for row in rows]


def test_rows_that_may_be_skipped_are_counted(capsys: Capture, bench: Bench, work: Path) -> None:
    rows = [GOOD | {"chosen": ""}, GOOD | {"chosen": "<s>"}, GOOD, GOOD | {"prompt": "Again."}]
    write_rows(work / "rows.jsonl", rows)
    data = {"path": "rows.jsonl", "on_error": "skip"}
    write_config(bench, "text", data=data, train={"steps": 1, "batch": 2})
    called = call(capsys, "train", "config.yaml")
    assert called.code == 0, called.err
    record = json.loads((work / "out" / "run.json").read_text())
    assert record["data"]["rows"] == 2 and record["data"]["left_out"] == 2
    assert any("1 broken rows left out" in n and "row 1, field 'chosen'" in n for n in record["notes"])
    assert any("1 of 3 rows left out" in n and "row 2: chosen" in n for n in record["notes"])
    assert call(capsys, "export", "out", "exported").code == 0  # probed with rows that can be used
    refused(capsys, work, ("train.batch 3", "2 rows"), "train", "config.yaml", "train.batch=3", "output=b")


def test_odd_pictures_are_taken(capsys: Capture, bench: Bench, work: Path) -> None:
    noise = Image.effect_noise((24, 16), 90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    (work / "good.png").write_bytes(png())
    noise.convert("RGB").save(work / "turned.jpg", exif=exif)
    noise.convert("CMYK").save(work / "cmyk.jpg")
    noise.save(work / "moving.gif", save_all=True, append_images=[noise.rotate(90)])
    noise.save(work / "pages.tiff", save_all=True, append_images=[noise.rotate(90)])
    Image.fromarray(torch.arange(600, dtype=torch.int32).view(20, 30).numpy().astype("uint16")).save(
        work / "deep.png"
    )
    for mode in ("1", "L", "LA", "P", "RGBA"):
        noise.convert(mode).save(work / f"mode-{mode}.png")
    odd = sorted(p.name for p in work.iterdir() if p.suffix in (".jpg", ".gif", ".tiff", ".png"))
    rows = [{"prompt": "cat", "chosen_image": "good.png", "rejected_image": name} for name in odd]
    write_rows(work / "rows.jsonl", rows)
    write_config(bench, "image", data={"path": "rows.jsonl"}, train={"steps": 1, "batch": len(odd)})
    called = call(capsys, "train", "config.yaml")
    assert called.code == 0, called.err
    assert f"data: {len(odd)} of {len(odd)} rows used" in called.err
    assert "1 pairs whose two sides are equal (kept" in called.err  # good.png beside itself
