"""JSON lines: harmless variations are read, and the real files of the test data."""

import json
from pathlib import Path
from typing import Any

import pytest
from bad_inputs import GOOD
from samples import text_of

from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import UserError

LINE = json.dumps(GOOD).encode()


@pytest.mark.parametrize(
    "content",
    [
        LINE + b"\n" + LINE + b"\n",
        LINE + b"\n" + LINE,
        LINE + b"\r\n" + LINE + b"\r\n",
        b"\xef\xbb\xbf" + LINE + b"\n" + LINE + b"\n",
        LINE + b"\n\n  \n" + LINE + b"\n\n",
        b"[" + LINE + b",\n" + LINE + b"]",
        b"\xef\xbb\xbf \n[\n" + LINE + b", " + LINE + b"\n]\n",
    ],
    ids=["plain", "no last line end", "CRLF", "mark", "blank lines", "array", "array with mark"],
)
def test_variations_of_the_same_two_rows(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(content)
    data = load(Jsonl(path=str(tmp_path / "x.jsonl")))
    assert [text_of(sample, "chosen") for sample in data.samples] == [("Say hello.", "Hello!")] * 2
    assert data.report.rows == 2


def test_row_numbers_are_line_numbers(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(LINE + b"\n\n\n" + LINE)
    origins = [sample.origin for sample in load(Jsonl(path=str(tmp_path / "x.jsonl"))).samples]
    assert origins == ["x.jsonl row 1", "x.jsonl row 4"]


def test_line_separators_inside_a_text_do_not_end_the_line(tmp_path: Path) -> None:
    odd = "a\u2028b\u0085c\x0bd"
    (tmp_path / "x.jsonl").write_text(json.dumps({**GOOD, "chosen": odd}, ensure_ascii=False) + "\n", "utf-8")
    (sample,) = load(Jsonl(path=str(tmp_path / "x.jsonl"))).samples
    assert text_of(sample, "chosen")[1] == odd


@pytest.mark.parametrize("content", [b"[" + LINE + b", 3]", b"[" + LINE + b","])
def test_broken_arrays(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(UserError, match="x.json( row 2: must be a JSON object|: not valid JSON)"):
        load(Jsonl(path=str(tmp_path / "x.json")))


CHAT = {"prompt": "conversations"}
SIDES = {"chosen": "r_chosen", "rejected": "r_reject"}
OWN = {**SIDES, "prompt_chosen": "i_chosen", "prompt_rejected": "i_reject"}
REAL: dict[str, tuple[dict[str, Any], int, set[str]]] = {
    "text/stories_pairs.jsonl": ({"split": "train"}, 512, {"chosen", "rejected"}),
    "text/stories_unpaired.jsonl": ({}, 256, {"completion"}),
    "text/stories_ranked.jsonl": ({}, 128, {"responses"}),
    "text/dpo_en_demo.json": ({"columns": CHAT}, 185, {"chosen", "rejected"}),
    "text/dpo_zh_demo.json": ({"columns": CHAT}, 80, {"chosen", "rejected"}),
    "text/kto_en_demo.json": ({"columns": {"completion": "messages"}}, 211, {"completion"}),
    "text/dove_helpful_pairs.jsonl": ({"columns": OWN}, 313, {"chosen", "rejected"}),
    "text/truthfulqa_ranked.jsonl": ({}, 501, {"responses"}),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(name: str, test_data: Path) -> None:
    options, count, roles = REAL[name]
    data = load(Jsonl(path=str(test_data / name), **options))
    assert len(data.samples) == count
    assert all(set(sample.examples) == roles for sample in data.samples)


def test_real_chats_keep_their_turns(test_data: Path) -> None:
    path = test_data / "text" / "dpo_en_demo.json"
    raw = json.loads(path.read_text())
    for row, sample in zip(raw, load(Jsonl(path=str(path), columns=CHAT)).samples, strict=True):
        turns = [(turn.speaker, turn.parts[0].data) for turn in sample.examples["chosen"][0].prompt]
        names = {"human": "user", "gpt": "assistant", "system": "system"}
        assert turns == [(names[turn["from"]], turn["value"]) for turn in row["conversations"]]
        assert text_of(sample, "rejected")[1] == row["rejected"]["value"]


def test_real_transcripts_as_conversations_share_all_but_the_last_turn(
    test_data: Path, tmp_path: Path
) -> None:
    def turns(transcript: str) -> list[dict[str, str]]:
        pieces = transcript.replace("\n\nHuman: ", "\0user\1").replace("\n\nAssistant: ", "\0assistant\1")
        pairs = [piece.split("\1") for piece in pieces.split("\0")[1:]]
        return [{"role": role, "content": content} for role, content in pairs]

    raw = [json.loads(line) for line in (test_data / "text" / "hh_helpful_test.jsonl").open()]
    lines = [{side: turns(row[side]) for side in ("chosen", "rejected")} for row in raw]
    (tmp_path / "hh.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    data = load(Jsonl(path=str(tmp_path / "hh.jsonl"), on_error="skip"))
    assert len(data.samples) + len(data.report.skipped) == 359
    assert len(data.samples) > 340  # some real transcripts hold empty answers or two turns of one speaker
    for sample in data.samples:
        chosen, rejected = (sample.examples[role][0] for role in ("chosen", "rejected"))
        assert chosen.prompt == rejected.prompt and chosen.prompt[-1].speaker == "user"
    with pytest.raises(UserError, match="'prompt': is missing"):
        load(Jsonl(path=str(test_data / "text" / "hh_helpful_test.jsonl")))
