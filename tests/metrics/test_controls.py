"""Controls ask the same words about something else and tell how far the values fall."""

import json
from pathlib import Path

import pytest
from metrics.test_pope import write

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.data._video_parts import CutFile
from mmalign.measuring import named
from mmalign.metrics._reading import asked, medium
from mmalign.metrics._resampling import differences, figures
from mmalign.metrics._seam import Question
from mmalign.metrics.frame_shuffle import FrameShuffle
from mmalign.metrics.image_swap import ImageSwap
from mmalign.types import Part, UserError


def pope(folder: Path, labels: list[str], per_image: int = 2) -> dict[str, str]:
    return {
        "name": "pope",
        "questions": str(write(folder / "q.jsonl", labels, per_image)),
        "images": "photos",
    }


def test_swapped_pictures(tmp_path: Path) -> None:
    metric = ImageSwap(pope(tmp_path, ["yes", "no"] * 4))
    every = {one.id: one for one in metric.ask()}
    assert len(every) == 16 and every["3#swapped"].of == "3"
    assert (every["3"].asks, every["3#swapped"].asks) == ("pope", "pope.swapped")
    for number in range(1, 9):
        plain, swapped = every[str(number)].turns[0].parts, every[f"{number}#swapped"].turns[0].parts
        assert plain[1] == swapped[1] and plain[0].data.name != swapped[0].data.name
    again = {one.id: one for one in ImageSwap(metric.of).ask()}
    assert again == every and {one.id: one for one in ImageSwap(metric.of, seed=1).ask()} != every


def swapped(metric: ImageSwap, media: list[list[Part]]) -> list[list[str]]:
    """The names of the files that every question is asked about in place of its own."""
    questions = [Question(str(i), asked(*parts, "?"), "x") for i, parts in enumerate(media)]
    return [[part.data.name for part in one.turns[0].parts[:-1]] for one in metric.changed(questions)]


def test_a_partner_shares_no_medium(tmp_path: Path) -> None:
    """Neither one picture of two, nor the same two in another order, nor another part of the same video."""
    pairs = [[medium("image", "/photos", name) for name in names] for names in ("ab", "ba", "ac", "de")]
    cuts = [[Part("video", CutFile("/clips", *cut, 3.0))] for cut in (("v", 0.0, 9.0), ("v", 9.0, 12.0))]
    for seed in range(8):
        metric = ImageSwap(pope(tmp_path, ["yes", "no"]), seed=seed)
        found = swapped(metric, pairs)
        assert found[:3] == [["d", "e"]] * 3 and found[3] in (["a", "b"], ["b", "a"], ["a", "c"])
        with pytest.raises(UserError, match="no other question of x shows other media alone"):
            metric.changed([Question(str(i), asked(*one, "?"), "x") for i, one in enumerate(cuts)])
        other = [Part("video", CutFile("/clips", "w", 0.0, 9.0, 3.0))]
        assert swapped(metric, [*cuts, other])[:2] == [["w"], ["w"]]


def test_the_fall(tmp_path: Path) -> None:
    """All right with the pictures, always yes without them: accuracy falls from 1 to 1/2."""
    labels = ["yes", "no"] * 4
    metric = ImageSwap(pope(tmp_path, labels))
    answers = {str(i): label for i, label in enumerate(labels, 1)}
    answers |= {f"{i}#swapped": "yes" for i in range(1, 9)}
    items = metric.grade(answers)
    found = figures(metric, items)
    assert [found[name].value for name in ("acc", "acc_swapped", "acc_drop")] == [1, 0.5, 0.5]
    assert found["yes_ratio_swapped"].value == 1 and {item.cluster for item in items} == {
        f"{i}.jpg" for i in range(5)
    }
    blind = metric.grade({**answers, **{str(i): "yes" for i in range(1, 9)}})
    assert figures(metric, blind)["acc_drop"].value == 0
    assert metric.less_is_better == {"unclear", "unclear_swapped"}
    assert differences(metric, blind, items)["acc_drop"].value == 0.5
    assert (
        len(metric.grade({"1": "yes", "2": "yes", "2#swapped": "no"})) == 2
    )  # what was answered once is left out


def test_shuffled_frames(tmp_path: Path) -> None:
    row = {"videoID": "v", "question_id": "1", "question": "?", "options": ["A. a", "B. b"], "answer": "A"}
    (tmp_path / "q.json").write_text(json.dumps([row]))
    metric = FrameShuffle({"name": "video_mme", "questions": str(tmp_path / "q.json"), "videos": "clips"})
    plain, shuffled = metric.ask()
    assert (plain.change, shuffled.change, shuffled.turns) == ("", "shuffled_frames", plain.turns)
    found = figures(metric, metric.grade({"1": "A", "1#shuffled": "B"}))
    assert found["acc_drop"].value == 100
    with pytest.raises(UserError, match="frame_shuffle: question '1' of pope shows no video"):
        FrameShuffle(pope(tmp_path, ["yes"])).ask()


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no other question of pope shows other media alone"):
        ImageSwap(pope(tmp_path, ["yes", "no"], per_image=9)).ask()
    with pytest.raises(UserError, match="of: unknown key question; did you mean questions"):
        ImageSwap({"name": "pope", "question": "x"}).ask()
    with pytest.raises(UserError, match="not a control"):
        ImageSwap({"name": "image_swap", "of": pope(tmp_path, ["yes"])}).ask()
    section = {"name": "image_swap", "of": {"name": "outside.code:Metric"}}
    with pytest.raises(UserError, match="would import code from outside mmalign"):
        build_named(KINDS["metrics"], section, "metric", False)


def test_names(tmp_path: Path) -> None:
    section = pope(tmp_path, ["yes", "no"])
    listed = [ImageSwap(section), ImageSwap(section, seed=1), FrameShuffle({"name": "mmalign.a:Quiz"})]
    assert [name for name, _ in named(listed)] == [
        "pope_image_swap",
        "pope_image_swap_2",
        "Quiz_frame_shuffle",
    ]
