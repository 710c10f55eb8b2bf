"""What builds leave out is counted in units that add up."""

import importlib
from pathlib import Path

import pytest

import mmalign.builders
from mmalign.blind import answers as blind
from mmalign.builders._left_out import NOTHING, in_all, lines, most_often, of_prompt, unit_of
from mmalign.builders._store import AS_BEFORE, Store

UNITS = {
    "prompts", "questions", "answers", "rewrites", "views", "pairs", "segments", "rankings", "ratings",
    "fillings", "critiques", "lines",
}  # fmt: skip
FOLDER = Path(mmalign.builders.__file__).parent


@pytest.mark.parametrize("file", [path.stem for path in sorted(FOLDER.glob("*.py"))])
def test_every_reason_begins_with_what_it_counts(file: str) -> None:
    module = importlib.import_module(f"mmalign.builders.{file}")
    for name, text in [*vars(module).items(), *vars(blind).items()]:
        reason = name.isupper() and not name.startswith("_") and isinstance(text, str) and " " in text
        if reason and text.strip() == text:
            assert unit_of(text) in UNITS, f"{file}.{name}"


def test_rows_are_prompts_and_made_rows_are_pairs() -> None:
    assert unit_of("rows whose answer is too long") == "prompts" and unit_of("made rows that") == "pairs"
    assert unit_of("pairs: closer than min_gap") == "pairs"


def test_a_prompt_without_rows_is_left_out_whatever_else_was() -> None:
    assert of_prompt({"answers without any text": 3, "pairs alike": 0}, 0) == {
        "answers without any text": 3,
        NOTHING: 1,
    }
    assert of_prompt({"rows that are too long": 1}, 0) == {"rows that are too long": 1}
    assert of_prompt({"answers without any text": 3}, 2) == {"answers without any text": 3}


def test_sums_and_lines_are_by_unit_and_prompts_come_first() -> None:
    counts = {"answers b": 2, "answers a": 5, "rows c": 1, NOTHING: 4}
    assert list(in_all(counts).items()) == [("prompts", 5), ("answers", 7)]
    assert lines(counts) == [
        *(f"left out ({NOTHING}): 4", "left out (rows c): 1", "left out (answers a): 5"),
        *("left out (answers b): 2", "left out in all: prompts 5, answers 7"),
    ]
    assert lines({}) == [] and most_often({}) is None
    assert most_often({NOTHING: 9, "answers a": 5, "answers b": 5}) == "answers a"


def test_prompts_of_a_record_add_up(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.begin("", {})
    row = {"id": "kept/1"}
    store.add(0, [row, {"id": "sifted/1"}], {"answers a": 1, f"{AS_BEFORE}rows same": 1}, None)
    store.add(1, [], {"answers a": 2}, None)
    store.add(2, [], {"rows broken": 1}, "broken")
    store.add(3, [{"id": "sifted/2"}], {}, None)
    store.add(4, [{"id": "behind"}], {}, None)
    out = {"sifted/1": "pairs too long", "sifted/2": "pairs too long", "behind": "rows behind"}
    done = store.finish(5, {}, lambda rows: {one["id"]: out[one["id"]] for one in rows if one["id"] in out})
    assert done["kept"] == {"pairs": 1, "prompts with pairs": 1} and done["as_before"] == {"rows same": 1}
    assert done["left_out"] == {
        "answers a": 3, NOTHING: 2, "rows broken": 1, "pairs too long": 2, "rows behind": 1,
    }  # fmt: skip
    assert done["left_out_in_all"] == {"prompts": 4, "answers": 3, "pairs": 2}
