"""CSV files: cells as their fields need them, broken files and rows, real votes on clips."""

from pathlib import Path
from typing import Any

import pytest
from data.format_rows import answer_of, prompt_of

from mmalign.clips import Frames
from mmalign.data._media import decode
from mmalign.data._pairing import PairRule
from mmalign.data._sources import LoadedData, load
from mmalign.data.csv import Csv
from mmalign.types import UserError


def read(folder: Path, text: str | bytes, name: str = "x.csv", **options: Any) -> LoadedData:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(Csv(path=str(folder / name), **options))


def test_cells_are_text_numbers_or_truth_values_by_their_field(tmp_path: Path) -> None:
    text = '\ufeffprompt,completion,label,weight,note\n12,"a, ""b""\nc",TRUE,0.5,\n7,d,0,,x\n'
    first, second = read(tmp_path, text.replace("\n", "\r\n").replace("\r\nc", "\nc")).samples
    assert (prompt_of(first, "completion"), answer_of(first, "completion")) == ([("text", "12")], 'a, "b"\nc')
    assert [one.labels["binary"] for one in (first, second)] == [1.0, 0.0]
    assert [one.weight for one in (first, second)] == [0.5, 1.0]
    assert first.origin == "x.csv row 1"


def test_mapped_columns_are_converted_too_and_tabs_part_tsv(tmp_path: Path) -> None:
    text = "q\tyes\tno\tsure\nP\ta\tb\t2\n"
    columns = {"prompt": "q", "chosen": "yes", "rejected": "no", "weight": "sure"}
    (sample,) = read(tmp_path, text, "x.tsv", columns=columns).samples
    assert (answer_of(sample, "chosen"), sample.weight) == ("a", 2.0)
    (sample,) = read(tmp_path, text.replace("\t", ";"), columns=columns, delimiter=";").samples
    assert sample.weight == 2.0


HEAD = "prompt,chosen,rejected,weight\n"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        (HEAD + "P,a,b\n", "x.csv row 1: has 3 cells, the header has 4"),
        (HEAD + "P,a,b,1\nP,a,b,1,1\n", "x.csv row 2: has 5 cells, the header has 4"),
        (HEAD + "P,a,b,heavy\n", "row 1, field 'weight': must be a number, got text"),
        (HEAD + "P,a,b,nan\n", "row 1, field 'weight': must be finite"),
        (HEAD + "P,a,,1\n", "row 1, field 'rejected': is null"),
        (HEAD + 'P,"a" x,b,1\n', "x.csv row 1, line 2: not valid CSV"),
        (HEAD + 'P,"a,b,1\n', "x.csv row 1, line 2: not valid CSV: unexpected end of data"),
        ("prompt,prompt\n", "x.csv: the header names the column 'prompt' twice"),
        ("", "x.csv: is empty"),
        (HEAD, "x.csv' holds no rows"),
        (b"prompt,chosen\n\xff,a\n", "x.csv: not UTF-8 at byte 14"),
    ],
)
def test_broken_files_and_rows(text: str | bytes, rule: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, text)
    assert rule in str(caught.value) and "\n" not in str(caught.value)


def test_broken_rows_can_be_skipped(tmp_path: Path) -> None:
    data = read(tmp_path, HEAD + "P,a,b\nQ,a,b,1\n", on_error="skip")
    assert (len(data.samples), len(data.report.skipped)) == (1, 1)
    with pytest.raises(ValueError, match="delimiter: must be one character, got ', '"):
        Csv(path="x", delimiter=", ")


def test_real_votes_on_real_clips(test_data: Path) -> None:
    """Row 1: VQ B, MQ B, TA A. Row 2: VQ A, the others same."""
    path = test_data / "video/generation_pairs.csv"

    def winners(**options: Any) -> list[str]:
        samples = load(Csv(path=str(path), **options)).samples
        return [answer_of(sample, "chosen")[-5] for sample in samples]

    assert winners() == ["B", "A"]
    assert winners(pairs=PairRule(by=("TA",))) == ["A"]
    assert winners(pairs=PairRule(by=("TA",)), ties="keep") == ["A", "A"]
    assert winners(pairs=PairRule(by=("VQ", "MQ", "TA"), policy="veto")) == ["A"]
    sample = decode(load(Csv(path=str(path))).samples[1], Frames(count=4))
    clips = {role: sample.examples[role][0].response[0].data for role in ("chosen", "rejected")}
    assert [clips[role].total for role in ("chosen", "rejected")] == [128, 60]
