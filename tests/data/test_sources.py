"""Loading a source: splits, held-out rows, limits, renamed columns, counts; sources of one's own."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from bad_inputs import GOOD, write_rows
from samples import pair, text_of

from mmalign.data._digest import digest
from mmalign.data._media_columns import looks_like
from mmalign.data._pairing import PairRule
from mmalign.data._paths import File
from mmalign.data._sources import SourceOptions, load, options_of
from mmalign.data.jsonl import Jsonl
from mmalign.types import Part, PreferenceSample, UserError


def rows(count: int, **extra: Any) -> list[dict[str, Any]]:
    return [{**GOOD, "prompt": f"prompt {n}", **extra} for n in range(count)]


def source(folder: Path, content: list[Any], **options: Any) -> Jsonl:
    return Jsonl(path=str(write_rows(folder / "x.jsonl", content)), **options)


def test_report_of_a_plain_file(tmp_path: Path) -> None:
    data = load(source(tmp_path, rows(3, origin="web")))
    assert [sample.origin for sample in data.samples] == [f"x.jsonl row {n}" for n in (1, 2, 3)]
    assert data.report.lines() == [
        "data: 3 of 3 rows used (chosen 3, rejected 3)",
        "data: columns not used: origin 3",
    ]
    assert data.report.data_hash == load(source(tmp_path, rows(3, origin="web"))).report.data_hash
    assert data.report.data_hash != load(source(tmp_path, rows(2) + rows(1))).report.data_hash


@pytest.mark.parametrize(
    ("column", "value", "kind"),
    [
        ("image_file", "img/0", "image"),
        ("ref", "a.png", "image"),
        ("ref", ["v.mp4"], "video"),
        ("clip_path", {"path": "frames/3"}, "video"),
        ("scan", {"bytes": b"x", "path": None}, "image"),
        ("image_count", 3, None),
        ("image_note", "a red square", None),
        ("source", "web", None),
        ("video", "", None),
    ],
)
def test_columns_that_look_like_media(column: str, value: Any, kind: str | None) -> None:
    assert looks_like(column, value) == kind


def test_a_model_that_looks_gets_no_picture(tmp_path: Path) -> None:
    report = load(source(tmp_path, rows(3, image_file="img/0.jpg"))).report
    line = report.unseeing_line({"image"})
    assert line is not None and "none of 3 samples has a picture, and the model would see text" in line
    assert line.endswith("look like media: image_file; set data.columns: {images: image_file}")
    assert report.unseeing_line(frozenset()) is None
    plain = load(source(tmp_path, rows(3))).report.unseeing_line({"image", "video"})
    assert plain is not None and plain.endswith("has a picture or clip, and the model would see text alone")
    some = load(source(tmp_path, rows(2) + rows(1, images=["a.png"]))).report
    assert some.unseeing_line({"image"}) is None
    assert "data: 2 of 3 samples hold no picture and no clip" in some.lines()


def test_split_column(tmp_path: Path) -> None:
    content = rows(3, split="train") + rows(2, split="test")
    data = load(source(tmp_path, content, split="test"))
    assert [sample.origin for sample in data.samples] == ["x.jsonl row 4", "x.jsonl row 5"]
    assert "data: rows of other splits left out: train 3" in data.report.lines()
    every = load(source(tmp_path, content)).report.lines()
    assert "data: no split chosen, rows of all splits are used: test 2, train 3" in every
    with pytest.raises(UserError, match="data.split 'val': no such rows; splits are test 2, train 3"):
        load(source(tmp_path, content, split="val"))
    with pytest.raises(UserError, match="x.jsonl row 1: data.split is 'val', but the row has no split"):
        load(source(tmp_path, rows(1), split="val"))


def test_heldout_rows_are_kept_apart(tmp_path: Path) -> None:
    for heldout, expected in ((7, 7), (0.25, None)):
        some = source(tmp_path, rows(100), heldout=heldout)
        train, kept = load(some), load(some, "heldout")
        ids = [{sample.id for sample in data.samples} for data in (train, kept)]
        assert not ids[0] & ids[1]
        assert len(ids[0]) + len(ids[1]) == 100
        assert len(ids[1]) == expected if expected else 10 < len(ids[1]) < 40
        assert train.report.heldout == len(ids[1])
    with pytest.raises(UserError, match="heldout is 0"):
        load(source(tmp_path, rows(3)), "heldout")
    with pytest.raises(UserError, match="heldout 3 keeps back all of the 3 rows"):
        load(source(tmp_path, rows(3), heldout=3))
    with pytest.raises(UserError, match="heldout 1e-09 keeps back none"):
        load(source(tmp_path, rows(3), heldout=1e-9))


def test_a_heldout_share_does_not_move_rows_when_the_file_grows(tmp_path: Path) -> None:
    few = {s.id for s in load(source(tmp_path, rows(50), heldout=0.3), "heldout").samples}
    many = {s.id for s in load(source(tmp_path, rows(80), heldout=0.3), "heldout").samples}
    assert few < many


@pytest.mark.parametrize("heldout", [0.3, 30])
def test_rows_of_one_prompt_are_on_one_side(tmp_path: Path, heldout: float | int) -> None:
    """Five rows of each of 40 prompts, by text or by picture; a count is of rows, rounded up."""
    for content in (
        [{**row, "chosen": f"c{n}"} for n in range(5) for row in rows(40)],
        [{**GOOD, "images": [f"{n}.png"], "chosen": f"c{k}"} for n in range(40) for k in range(5)],
    ):
        parts = [load(source(tmp_path, content, heldout=heldout), which) for which in ("train", "heldout")]
        train, kept = ([digest(one.examples["chosen"][0].prompt) for one in part.samples] for part in parts)
        assert not set(train) & set(kept) and len(train) + len(kept) == 200
        assert len(kept) == 30 if isinstance(heldout, int) else 5 * 4 < len(kept) < 5 * 22
    odd = load(source(tmp_path, content, heldout=31), "heldout")
    assert len(odd.samples) == 35


def test_sides_with_prompts_of_their_own_tie_rows_together(tmp_path: Path) -> None:
    """A chain of ten rows that each share a prompt with the next, and twenty rows apart."""
    chain = [
        {"prompt_chosen": f"link {n}", "prompt_rejected": f"link {n + 1}", "chosen": "a", "rejected": "b"}
        for n in range(10)
    ]
    kept = load(source(tmp_path, rows(20) + chain[::-1], heldout=0.5), "heldout")
    linked = sum(int(one.origin.rsplit(" ", 1)[1]) > 20 for one in kept.samples)
    assert linked in (0, 10) and 0 < len(kept.samples) - linked < 20
    with pytest.raises(UserError, match="keeps back all of the 10 rows, which have 1 different prompts"):
        load(source(tmp_path, chain, heldout=1))


def test_flip_swaps_training_pairs_and_never_those_kept_back(tmp_path: Path) -> None:
    plain = source(tmp_path, rows(60), heldout=0.4)
    flipped = replace(plain, flip=1.0)
    before, after = load(plain), load(flipped)
    assert after.report.flipped == len(before.samples) and before.report.flipped == 0
    for old, new in zip(before.samples, after.samples, strict=True):
        assert (new.examples["chosen"], new.examples["rejected"]) == (
            old.examples["rejected"],
            old.examples["chosen"],
        )
    kept = load(flipped, "heldout")
    assert kept.samples == load(plain, "heldout").samples and kept.report.flipped == 0
    some = load(replace(plain, flip=0.5)).report.flipped
    assert 0.25 * len(before.samples) < some < 0.75 * len(before.samples)


def test_limit_and_equal_sides(tmp_path: Path) -> None:
    content = rows(2) + [{**GOOD, "rejected": GOOD["chosen"]}] + rows(3)
    assert len(load(source(tmp_path, content, limit=4)).samples) == 4
    kept = load(source(tmp_path, content))
    assert (len(kept.samples), kept.report.identical) == (6, 1)
    assert "data: 1 pairs whose two sides are equal (kept; they carry no gradient)" in kept.report.lines()
    dropped = load(source(tmp_path, content, drop_identical=True))
    assert (len(dropped.samples), dropped.report.identical_dropped) == (5, 1)
    assert "data: 1 pairs whose two sides are equal (left out)" in dropped.report.lines()


def test_scores_that_speak_against_the_order_are_told(tmp_path: Path) -> None:
    """Also where sides are swapped on purpose; those that a rule put in order by less are none of them."""
    scores = [(-3.0, 0.0), (2.0, 1.0), (1.0, 1.0)]
    content = [
        {**row, "chosen_score": one, "rejected_score": other}
        for row, (one, other) in zip(rows(3), scores, strict=True)
    ]
    content += [{**GOOD, "chosen_score": {"detail": 1.0}, "rejected_score": {"detail": 2.0}}]
    told = "data: 1 of 3 rows: the chosen side's score is below the rejected one's"
    told += "; data.pairs would order them anew"
    for share in (0.0, 1.0):
        assert told in load(source(tmp_path, content, flip=share)).report.lines()
    by = PairRule(by=("score",), fewer=("score",))
    ordered = load(source(tmp_path, content[:3], pairs=by, ties="keep"))
    assert ordered.report.scored_pairs == 0 and len(ordered.samples) == 3
    assert not any("below" in line for line in load(source(tmp_path, content[1:])).report.lines())


def test_sides_that_answer_other_words_are_told(tmp_path: Path) -> None:
    own = {"prompt_chosen": "Why?", "prompt_rejected": "Why not?", "chosen": "a", "rejected": "b"}
    pictures = {**GOOD, "chosen_images": ["a.png"], "rejected_images": []}
    told = "data: 1 pairs whose sides answer different words; the last turn of either alone is scored"
    assert told in load(source(tmp_path, [own, *rows(2), pictures])).report.lines()
    assert load(source(tmp_path, [*rows(2), pictures])).report.own_turns == 0


def test_columns_are_renamed_or_left_out(tmp_path: Path) -> None:
    content = [{"q": "Q", "good": "a", "bad": "b", "rejected_image": "x.png", "id": 4}]
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad", "rejected_image": None, "id": None}
    data = load(source(tmp_path, content, columns=columns))
    assert text_of(data.samples[0], "rejected") == ("Q", "b")
    assert data.samples[0].id != "4"
    with pytest.raises(UserError, match="x.jsonl row 1: data.columns names 'query', .* it has bad, good"):
        load(source(tmp_path, content, columns={"prompt": "query"}))
    with pytest.raises(ValueError, match="columns: 'promt' is no canonical field"):
        Jsonl(path="x", columns={"promt": "q"})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "limit"),
        ({"heldout": -1}, "heldout"),
        ({"heldout": 1.0}, "heldout"),
        ({"on_error": "ignore"}, "on_error"),
    ],
)
def test_ranges_of_options(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words}: "):
        Jsonl(path="x", **options)


def test_root_must_exist_and_defaults_to_the_folder_of_the_file(tmp_path: Path) -> None:
    row = {"prompt": "P", "chosen_image": "a.png", "rejected_image": "b.png"}
    (part,) = load(source(tmp_path, [row])).samples[0].examples["chosen"][0].response
    assert part.data == File(str(tmp_path), "a.png")
    with pytest.raises(UserError, match="data.root .*gone.*: no such folder"):
        load(source(tmp_path, [row], root=str(tmp_path / "gone")))


# ---------------------------------------------------------------- sources of one's own


@dataclass(frozen=True, kw_only=True)
class World(SourceOptions):
    """A source of ready samples with the common options."""

    count: int = 4

    def samples(self) -> Iterator[PreferenceSample]:
        """Numbered pairs; the chosen side holds a picture by name."""
        for number in range(self.count):
            sample = pair(str(number))
            chosen = replace(sample.examples["chosen"][0], response=(Part("image", f"{number}.png"),))
            yield replace(sample, examples={**sample.examples, "chosen": (chosen,)})


@dataclass(frozen=True)
class Rows:
    """A source of rows without the common options."""

    def records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Two rows."""
        yield "mine 1", dict(GOOD)
        yield "mine 2", dict(GOOD)


def test_own_sources(tmp_path: Path) -> None:
    data = load(World(limit=3, heldout=1, root=str(tmp_path)))
    assert len(data.samples) == 2
    assert data.samples[0].examples["chosen"][0].response[0].data.root == str(tmp_path)
    mine = load(Rows())
    assert [sample.origin for sample in mine.samples] == ["mine 1", "mine 2"]
    assert len({sample.id for sample in mine.samples}) == 2
    assert options_of(Rows()) == SourceOptions()


@dataclass(frozen=True)
class Wrong:
    """A source that yields what it must not."""

    value: Any

    def samples(self) -> Iterator[Any]:
        """The value, twice."""
        yield self.value
        yield self.value


def test_own_sources_are_checked() -> None:
    with pytest.raises(UserError, match="must yield PreferenceSample, got dict"):
        load(Wrong({}))
    with pytest.raises(UserError, match="needs an id"):
        load(Wrong(PreferenceSample("", pair("a").examples)))
    with pytest.raises(UserError, match="id 'a' is also that of"):
        load(Wrong(pair("a")))
