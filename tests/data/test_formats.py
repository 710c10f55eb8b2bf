"""Recognising formats: each by its own rows, mixtures counted, what is ambiguous or unknown refused."""

from pathlib import Path
from typing import Any

import pytest
from data.format_rows import BOT, LLAVA, MS_SWIFT, SHAREGPT, SOUND, TRL, USER, changed, prompt_of, read_rows

from mmalign._names import KINDS, names
from mmalign.data._formats import known_formats, recognise
from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.shapes.sources import ImagePairs
from mmalign.types import UserError


def test_every_format_has_a_sound_row() -> None:
    assert set(SOUND) == set(names(KINDS["format"]))


@pytest.mark.parametrize("name", SOUND)
def test_every_format_is_recognised_and_reads_alike_when_named(name: str, tmp_path: Path) -> None:
    found, signs = recognise(SOUND[name], "x row 1", known_formats("auto"))
    assert found == name and set(signs) <= set(SOUND[name])
    guessed, named = read_rows(tmp_path, SOUND[name]), read_rows(tmp_path, SOUND[name], format=name)
    assert guessed.samples == named.samples
    assert guessed.report.data_hash == named.report.data_hash
    assert not any("read as" in line for line in named.report.lines())


# Rows in other layouts of their formats, not to be taken for others'.
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("llava", {**LLAVA, "image": ["a.png", "b.png"], "gt": "x", "prompt": "<image-placeholder> <image>?"}),
    ("llava", {"video": "v", **changed(LLAVA, image=..., prompt="<video>What?")}),
    ("llava_hound", changed(SOUND["llava_hound"], video=..., image_path="a.png")),
    ("llava_hound", {**SOUND["llava_hound"], "chosen_score": 4, "rejected_score": 2}),
    ("mm_rlhf", changed(SOUND["mm_rlhf"], image=..., video="v", is_tie=..., delta=..., ls_factor=0.3)),
    (
        "mm_rlhf",
        changed(SOUND["mm_rlhf"], chosen=..., rejected=..., responses=[{"text": "x", "rank": 1}] * 2),
    ),
    ("ha_dpo", {"image_id": 1, "chosen": ["a"], "rejected": ["b"]}),
    ("ha_dpo", {"image_id": 1, "image": "a.png", "question": "Q", "chosen": ["a"], "rejected": ["b"]}),
    ("align_anything", {"prompt": "P", "response": "a", "critique": "b", "refinement": "c"}),
    ("align_anything", changed(SOUND["align_anything"], image=..., video_path="v.mp4")),
    ("rlhf_v", {"image": "a.png", "question": "Q", "chosen": "a", "rejected": "b", "image_path": "b.png"}),
    ("rlaif_v", {**SOUND["rlhf_v"], "org_infos": {"scores": [0, -1]}, "image_path": "b.png"}),
    ("re_align", {**SOUND["re_align"], "prompt": "P", "chosen": "a", "rejected": "b"}),
    ("trl", {"video": "v.mp4", "prompt": "P", "chosen": "a", "rejected": "b"}),
]


@pytest.mark.parametrize(("name", "row"), VARIANTS)
def test_other_layouts_are_told_apart(name: str, row: dict[str, Any]) -> None:
    assert recognise(row, "x row 1", known_formats("auto"))[0] == name


def test_each_format_is_recognised_in_the_order_of_any_file_list() -> None:
    every = known_formats("auto")
    for name, row in [*SOUND.items(), *VARIANTS]:
        turned = dict(reversed(every.items()))
        assert recognise(row, "x row 1", turned)[0] == name


@pytest.mark.parametrize("name", SOUND)
def test_columns_that_are_not_read_are_counted(name: str, tmp_path: Path) -> None:
    report = read_rows(tmp_path, {**SOUND[name], "comment": "x", "annotator": 3}).report
    assert report.unknown_columns == {"comment": 1, "annotator": 1}


@pytest.mark.parametrize("name", SOUND)
def test_labels_of_the_sample_come_through(name: str, tmp_path: Path) -> None:
    (sample,) = read_rows(tmp_path, {**SOUND[name], "id": "x7", "weight": 2, "group": "g"}).samples
    assert (sample.id, sample.weight, sample.labels["group"]) == ("x7", 2.0, "g")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "P", "chosen": "a", "rejected": "b", "messages": [USER, BOT]},
        {"prompt": "P", "chosen": "a", "rejected": "b", "question": "Q", "text": "{}"},
        {"chosen": [USER, BOT], "rejected": [USER, {**BOT, "content": "No"}], "messages": [USER, BOT]},
        {"prompt": [USER], "chosen": [BOT], "rejected": [BOT], "conversations": []},
        {"prompt": "P", "completion": "a", "label": True},
        {"prompt": "P", "chosen_image": "a.png", "rejected_image": "b.png", "caption": "c"},
        {"prompt": "P", "chosen": "a", "rejected": "b", "images": ["a.png"]},
    ],
)
def test_foreign_columns_beside_canonical_ones_change_nothing(row: dict[str, Any], tmp_path: Path) -> None:
    data = read_rows(tmp_path, row)
    assert data.report.formats == {"canonical": 1}
    assert not any("read as" in line for line in data.report.lines())


def test_a_file_of_several_formats_is_counted_by_format(tmp_path: Path) -> None:
    data = read_rows(tmp_path, SHAREGPT, SOUND["canonical"], {**SHAREGPT, "weight": 2})
    name = str(tmp_path / "x.jsonl")
    assert data.report.lines()[:2] == [
        f"data: {name!r} 1 rows read as canonical (chosen, rejected)",
        f"data: {name!r} 2 rows read as sharegpt (conversations, chosen, rejected)",
    ]
    with pytest.raises(UserError, match="row 2, field 'conversations': must be a list"):
        read_rows(tmp_path, SHAREGPT, SOUND["canonical"], format="sharegpt")


def test_what_could_be_two_formats_is_refused(tmp_path: Path) -> None:
    both = {**MS_SWIFT, "conversations": [], "kto_tag": True}
    rule = r"x.jsonl row 1: could be ms_swift \(messages, rejected_response\) and sharegpt \(conv"
    with pytest.raises(UserError, match=rule):
        read_rows(tmp_path, both)
    (sample,) = read_rows(tmp_path, both, format="ms_swift").samples
    assert prompt_of(sample, "chosen")[0] == ("system", "Be brief.")


def test_what_is_no_format_is_refused_with_its_columns(tmp_path: Path) -> None:
    rule = r"row 1: no chosen and rejected.* columns are query, reply .*formats: align_anything, canonical"
    with pytest.raises(UserError, match=rule):
        read_rows(tmp_path, {"query": "Q", "reply": "R"})
    skipped = read_rows(tmp_path, {"query": "Q"}, SHAREGPT, on_error="skip").report
    assert (len(skipped.skipped), skipped.kept) == (1, 1)


def test_names_of_formats_and_of_their_columns() -> None:
    with pytest.raises(
        ValueError, match="format: no format is called 'sharegtp'; known: auto, align_anything"
    ):
        Jsonl(path="x", format="sharegtp")
    assert Jsonl(path="x", columns={"caption": "text"}).format == "auto"
    with pytest.raises(ValueError, match="columns: 'caption' is no canonical field"):
        Jsonl(path="x", format="sharegpt", columns={"caption": "text"})
    with pytest.raises(ValueError, match="ties: must be drop or keep, got 'lose'"):
        Jsonl(path="x", ties="lose")  # type: ignore[arg-type]


def test_a_source_of_ready_samples_takes_no_format() -> None:
    with pytest.raises(UserError, match="data.format 'trl': this source yields ready samples"):
        load(ImagePairs(format="trl"))


def test_canonical_rows_may_give_media_per_side(tmp_path: Path) -> None:
    row = {
        "prompt": TRL["prompt"],
        "chosen": "a",
        "rejected": "a",
        "images": ["a.png", "b.png"],
        "rejected_images": ["c.png", "d.png"],
    }
    (sample,) = read_rows(tmp_path, row, format="canonical").samples
    assert prompt_of(sample, "chosen") == [("user", "image:a.png", "or", "image:b.png")]
    assert prompt_of(sample, "rejected") == [("user", "image:c.png", "or", "image:d.png")]
    videos = changed(
        row, prompt="P", images=..., rejected_images=..., videos="v.mp4", chosen_videos=["w.mp4"]
    )
    (sample,) = read_rows(tmp_path, videos).samples
    assert prompt_of(sample, "chosen") == [("text", "video:w.mp4", "P")]
    assert prompt_of(sample, "rejected") == [("text", "video:v.mp4", "P")]
    with pytest.raises(UserError, match="field 'rejected_images': 1 images for 2 image places"):
        read_rows(tmp_path, {**row, "rejected_images": ["c.png"]}, format="canonical")


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_name_of_a_medium_is_null_in_other_formats(empty: str, tmp_path: Path) -> None:
    rows = [changed(SOUND["mm_rlhf"], image=empty, video="v.mp4", prompt="What?")]
    rows.append(changed(SOUND["mm_rlhf"], image="a.png", video=empty, prompt="What?"))
    rows.append(changed(SOUND["rlaif_v"], image=empty, image_path="b.png", question="What?"))
    rows.append(changed(SOUND["align_anything"], image=empty, video_path="w.mp4", question="What?"))
    told = ["video:v.mp4", "image:a.png", "image:b.png", "video:w.mp4"]
    found = read_rows(tmp_path, *rows).samples
    assert [prompt_of(one, "chosen") for one in found] == [[("user", name, "What?")] for name in told]


@pytest.mark.parametrize(
    "media", [{"images": ""}, {"images": ["a.png", ""]}, {"rejected": None, "rejected_image": ""}]
)
def test_an_empty_name_of_a_medium_is_refused_in_canonical_rows(media: Any, tmp_path: Path) -> None:
    row = {"prompt": "What?", "chosen": "A cat.", "rejected": "A dog.", **media}
    rule = r"field '\S+': names no image: the text is empty; null says that there is none"
    with pytest.raises(UserError, match=rule):
        read_rows(tmp_path, row, format="canonical")


def test_real_pairs_of_pictures_and_captions(test_data: Path) -> None:
    path = str(test_data / "image_text" / "coco_caption_pairs.jsonl")
    with pytest.raises(UserError, match="row 1, field 'rejected': given beside rejected_image; keep one"):
        load(Jsonl(path=path))
    data = load(Jsonl(path=path, columns={"rejected_image": None}))
    assert data.report.formats == {"trl": 150} and len(data.samples) == 150
    (turn,) = decode(data.samples[0]).examples["chosen"][0].prompt
    assert (turn.parts[0].data.size, turn.parts[1].data) == (
        (640, 480),
        "Describe this image in one sentence.",
    )
    clips = load(Jsonl(path=str(test_data / "video" / "video_text_pairs.jsonl")))
    assert {part.kind for part in clips.samples[0].examples["chosen"][0].prompt[0].parts} == {"video", "text"}
