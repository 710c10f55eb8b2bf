"""MIA-DPO's pictures, prompts and selection, without a model."""

import itertools
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmalign.builders import _collages, _drift, mia_dpo
from mmalign.builders._candidates import Asked
from mmalign.builders._drift import Limits
from mmalign.builders._whole_rows import Pool, Remade
from mmalign.builders.mia_dpo import MiaDpo
from mmalign.types import Attended, Message, Part

SURE = torch.tensor([0.9, 0.8, 0.95])


def plain(colour: str, size: tuple[int, int] = (20, 10)) -> Image.Image:
    return Image.new("RGB", size, colour)


# ---------------------------------------------------------------- shares of attention


def test_the_worked_share_and_perplexity() -> None:
    maps = [torch.full((576,), 0.04), torch.full((576,), 0.02)]
    assert _drift.share_of_pictures(maps, 0) == pytest.approx(0.666667, abs=1e-6)
    assert _drift.share_of_pictures(maps, 1) == pytest.approx(0.333333, abs=1e-6)
    assert _drift.perplexity(SURE) == pytest.approx(1.134962, abs=1e-6)


def test_pictures_of_other_sizes_count_by_their_means() -> None:
    maps = [torch.full((4,), 0.5), torch.full((400,), 0.5)]
    assert _drift.share_of_pictures(maps, 0) == pytest.approx(0.5)


@pytest.mark.parametrize("count", sorted(_collages.GRIDS))
def test_cells_are_the_slices_of_the_map(count: int) -> None:
    rows, columns = _collages.GRIDS[count]
    attention = torch.rand(24 * 24, generator=torch.Generator().manual_seed(count))
    map_ = attention.view(24, 24).double()
    high, wide = 24 // rows, 24 // columns
    for target in range(count):
        r, c = divmod(target, columns)
        part = map_[r * high : (r + 1) * high, c * wide : (c + 1) * wide].sum() / map_.sum()
        found = _drift.share_of_cell(attention, (24, 24), (rows, columns), target)
        assert found == pytest.approx(float(part), rel=1e-9)


def test_patches_between_two_cells_are_shared() -> None:
    attention = torch.rand(5 * 7)
    shares = [_drift.share_of_cell(attention, (5, 7), (2, 3), target) for target in range(6)]
    assert sum(shares) == pytest.approx(1.0)
    ramp = torch.tensor([1.0, 2.0, 3.0])
    assert _drift.share_of_cell(ramp, (1, 3), (1, 2), 0) == pytest.approx((1 + 2 / 2) / 6)


def test_the_centre_is_sixteen_of_twenty_four_patches() -> None:
    attention = torch.rand(576)
    part = attention.view(24, 24)[4:20, 4:20].sum() / attention.sum()
    assert _drift.share_of_centre(attention, (24, 24)) == pytest.approx(float(part), rel=1e-5)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("the car at [0.12, 0.3, 0.5, 0.61] is red", True),
        ("(12, 30), (40, 55)", True),
        ("<box>3 4 5 6</box>", True),
        ("it is [1, 2, 3] or (4, 5)", False),
        ("a box in the year 2024, 3 of them", False),
    ],
)
def test_boxes_in_a_text(text: str, found: bool) -> None:
    assert _drift.holds_boxes(text) is found


def test_edit_distance() -> None:
    assert _drift.edit_distance("kitten", "sitting") == pytest.approx(3 / 7)
    assert _drift.edit_distance("same", "same") == 0.0
    assert _drift.edit_distance("", "ab") == 1.0


# ---------------------------------------------------------------- pictures


def test_a_collage_has_cells_strips_and_gaps() -> None:
    made = _collages.grid([plain("red"), plain("blue", (10, 20)), plain("lime")], 1)
    assert made.picture.size == (3 * 448 + 2 * 40, 488)
    assert made.target == (488, 40, 488 + 224, 488)  # upper left, aspect kept
    pixel = made.picture.getpixel
    assert pixel((5, 45)) == (255, 0, 0) and pixel((447, 40 + 223)) == (255, 0, 0)
    assert pixel((5, 40 + 300)) == (255, 255, 255)  # below a wide picture
    assert pixel((490, 480)) == (0, 0, 255) and pixel((490 + 230, 200)) == (255, 255, 255)
    strip = np.asarray(made.picture.crop((0, 0, 200, 40)).convert("L"))
    assert strip.min() < 60 < 255 == strip.max()  # a name is written there
    gap = np.asarray(made.picture.crop((448, 0, 488, 488)))
    assert (gap == 255).all()


def test_numbers_of_a_collage_differ_and_stand_over_their_cells() -> None:
    nine = _collages.grid([plain("red")] * 9, 8).picture
    assert nine.size == (3 * 448 + 80, 3 * 488 + 80)
    strips = [
        np.asarray(nine.crop((c * 488, r * 528, c * 488 + 200, r * 528 + 40)))
        for r in range(3)
        for c in range(3)
    ]
    assert all((one < 60).any() for one in strips)
    assert len({one.tobytes() for one in strips}) == 9


def test_small_cells_keep_the_proportions() -> None:
    assert _collages.grid([plain("red")] * 4, 0, cell=112).picture.size == (2 * 112 + 10, 2 * 122 + 10)


def test_a_picture_inside_another() -> None:
    made = _collages.inside(plain("red", (50, 50)), plain("blue", (200, 100)))
    assert made.picture.size == (200, 100)
    assert made.target == (65, 15, 135, 85)  # 70 % of the height, in the middle
    assert made.picture.getpixel((100, 50)) == (255, 0, 0)
    assert made.picture.getpixel((60, 50)) == (0, 0, 255)


def test_noise_is_clipped_and_keeps_to_its_box() -> None:
    clean = Image.new("RGB", (200, 200), (128, 128, 128))
    noisy = np.asarray(_collages.noised(clean, (50, 0, 200, 100), 225.0, 7)).astype(float)
    assert (noisy[:, :50] == 128).all() and (noisy[100:] == 128).all()
    part = noisy[:100, 50:]
    assert set(np.unique(part)) >= {0.0, 255.0}
    outside = ((part == 0) | (part == 255)).mean()  # of N(128, 225), beyond 0 or 255: 0.569 + rounding
    assert outside == pytest.approx(0.57, abs=0.02)
    whole = np.asarray(_collages.noised(clean, None, 49.0, 7)).astype(float)
    assert whole.mean() == pytest.approx(128, abs=1) and whole.std() == pytest.approx(48.5, abs=1.5)
    again = np.asarray(_collages.noised(clean, None, 49.0, 7))
    assert (again == whole).all() and (np.asarray(_collages.noised(clean, None, 49.0, 8)) != again).any()


def test_a_square_around_a_picture() -> None:
    made = _collages.squared(plain("red", (30, 10)))
    assert made.size == (30, 30)
    assert made.getpixel((15, 15)) == (255, 0, 0) and made.getpixel((15, 5)) == (255, 255, 255)


# ---------------------------------------------------------------- prompts


def said(turn: Message) -> str:
    """A turn as the released files write it."""
    return "".join("<image>" if part.kind == "image" else part.data for part in turn.parts)


def test_prompts_of_a_sequence() -> None:
    turns = (
        Message("system", (Part("text", "Be brief."),)),
        Message("user", (Part("image", 1), Part("text", "What is it?"))),
        Message("assistant", (Part("text", "A fox."),)),
        Message("user", (Part("text", "Which colour?"),)),
    )
    done = _collages.several(turns, _collages.shown("sequence", [plain("red"), plain("blue")]), "In Image2")
    assert [said(turn) for turn in done] == [
        "Be brief.",
        "Image1:<image>\nImage2:<image>\nIn Image2, what is it?",
        "A fox.",
        "In Image2, which colour?",
    ]
    assert [one.speaker for one in done] == [one.speaker for one in turns]


def test_prompts_of_one_composed_picture() -> None:
    turns = (Message("text", (Part("text", "Name it. "), Part("image", 1))),)
    (done,) = _collages.several(turns, _collages.shown("collage", [plain("red")]), "In Image1")
    assert said(done) == "<image>\nIn Image1, name it." and done.speaker == "text"


# ---------------------------------------------------------------- selection


def selected(
    layout: Any, share: float, rejected: str = "a blue box there", chosen: str = "a red fox here", **more: Any
) -> Remade:
    """What becomes of an answer of two pictures whose target has that share of attention."""
    builder = MiaDpo(**more.pop("settings", {}))
    attention: tuple[torch.Tensor, ...]
    if layout == "sequence":
        attention = (torch.full((4,), share), torch.full((4,), 1 - share))
    elif layout == "collage":
        attention = (torch.tensor([share, 1 - share]),)
    else:
        map_ = torch.full((6, 6), (1 - share) / 20)
        map_[1:5, 1:5] = share / 16
        attention = (map_.flatten(),)
    grid = {"collage": (1, 2), "pic_in_pic": (6, 6)}.get(layout)
    given = {"certainty": SURE, "attention": attention, **more}
    target = given.pop("target", 0)
    found = Attended(Part("text", rejected), given["certainty"], given["attention"], (grid,))
    asked = mia_dpo._Question(layout, 2, target, (), (), chosen)
    return builder._selected(asked, found)


@pytest.mark.parametrize("layout", ["sequence", "collage", "pic_in_pic"])
def test_thresholds_and_whether_they_are_kept_at(layout: Any) -> None:
    limits = Limits((2,), (0.5,))
    settings = {"sequence": limits, "collage": limits, "pic_in_pic": 0.5}
    if layout != "pic_in_pic":  # whose centre is no exact number of patches
        assert len(selected(layout, 0.5, settings=settings).rows) == (layout == "sequence")
    assert len(selected(layout, 0.49, settings=settings).rows) == 1
    over = selected(layout, 0.51, settings=settings)
    assert over.rows == () and over.counts == {mia_dpo.LOOKED: 1}


def test_the_worked_answer_is_kept() -> None:
    (pair,) = selected("sequence", 2 / 3).rows
    sides = {"chosen": Part("text", "a red fox here"), "rejected": Part("text", "a blue box there")}
    assert pair.answers == sides
    assert pair.told == {
        "layout": "sequence", "pictures": 2, "target": 1, "share": 0.666667, "perplexity": 1.134962,
    }  # fmt: skip
    defaults = MiaDpo()
    assert dict(zip(defaults.sequence.counts, defaults.sequence.share, strict=True)) == {
        2: 0.8,
        3: 0.7,
        4: 0.6,
        5: 0.6,
    }
    assert dict(zip(defaults.collage.counts, defaults.collage.share, strict=True)) == {
        2: 0.7, 3: 0.6, 4: 0.5, 6: 0.4, 9: 0.3,
    }  # fmt: skip
    assert defaults.pic_in_pic == 0.8 and defaults.layer == 0.5


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"rejected": " "}, mia_dpo.EMPTY),
        ({"rejected": "a red fox here "}, mia_dpo.EQUAL),
        ({"attention": None}, mia_dpo.SHORT),
        ({"certainty": torch.tensor([0.95, 0.95])}, mia_dpo.SURE),
        ({"rejected": "a"}, mia_dpo.UNEVEN),
        ({"rejected": "word " * 20}, mia_dpo.UNEVEN),
        ({"rejected": "a red fox hers"}, mia_dpo.ALIKE),
        ({"rejected": "There are only 2 images.", "target": None, "attention": None}, mia_dpo.ADMITTED),
    ],
)
def test_answers_that_teach_nothing(given: dict[str, Any], reason: str) -> None:
    found = selected("sequence", 0.5, **given)
    assert found.rows == () and found.counts == Counter({reason: 1})


def test_a_question_about_no_picture_is_kept_whatever_was_looked_at() -> None:
    (pair,) = selected("sequence", 0.99, target=None, chosen="There is no Image3.").rows
    assert pair.told["target"] is None and pair.told["share"] is None


# ---------------------------------------------------------------- rows


def row(name: str, colour: str | None, answer: str = "It is a fox.", question: str = "What is it?") -> Asked:
    media = () if colour is None else (Part("image", plain(colour)),)
    turns = (Message("user", (*media, Part("text", question))),)
    return Asked(name, turns, (Part("text", answer),), f"row {name}")


POOL = Pool(
    [row("a", "red"), row("b", "blue"), row("c", "lime"), row("d", "red"), row("e", None), row("f", "blue")]
)


def test_rows_that_cannot_be_asked_about() -> None:
    builder = MiaDpo(layouts=("sequence",), sequence=Limits((3,), (0.7,)))
    cases = {
        mia_dpo.MEDIA: row("e", None),
        mia_dpo.BOXES: row("a", "red", answer="at [1, 2, 3, 4]"),
        mia_dpo.LONG: row("a", "red", answer="x" * 512),
    }
    for reason, given in cases.items():
        assert builder._question(given, POOL, 0) == reason
    assert not isinstance(builder._question(row("a", "red", answer="x" * 511), POOL, 0), str)
    many = MiaDpo(layouts=("sequence",), sequence=Limits((4,), (0.6,)))
    assert many._question(row("a", "red"), POOL, 0) == mia_dpo.LONELY  # d shows the same picture


def test_pictures_of_a_question_are_different_and_the_target_is_named() -> None:
    builder = MiaDpo(layouts=("sequence",), sequence=Limits((3,), (0.7,)))
    targets = Counter[int]()
    for seed in range(40):
        found = builder._question(POOL.rows[0], POOL, seed)
        assert isinstance(found, mia_dpo._Question) and found.target is not None
        pictures = [part.data.getpixel((0, 0)) for part in found.kept[0].parts if part.kind == "image"]
        assert len(set(pictures)) == 3 and pictures[found.target] == (255, 0, 0)
        assert said(found.kept[0]).endswith(f"In Image{found.target + 1}, what is it?")
        assert found.asked == found.kept and found.chosen == "It is a fox."
        targets[found.target] += 1
    assert set(targets) == {0, 1, 2}


def test_other_pictures_are_drawn_one_by_one_in_any_order() -> None:
    orders = {tuple(mia_dpo._in_any_order(3, random.Random(seed))) for seed in range(200)}
    assert orders == set(itertools.permutations(range(3)))
    far = mia_dpo._in_any_order(10**15, random.Random(0))  # nothing as long as the pool is made
    assert len({next(far) for _ in range(1000)}) == 1000


def test_the_model_sees_noise_and_the_row_does_not() -> None:
    for layout in ("collage", "pic_in_pic"):
        builder = MiaDpo(layouts=(layout,), collage=Limits((2,), (0.7,)), cell=32)
        found = builder._question(POOL.rows[0], POOL, 1)
        assert isinstance(found, mia_dpo._Question)
        kept, asked = (np.asarray(turns[0].parts[0].data) for turns in (found.kept, found.asked))
        assert kept.shape == asked.shape and kept.shape[0] == kept.shape[1]
        changed = (kept != asked).any(-1)
        assert changed.any()
        if layout == "collage":  # only where the red picture is
            assert (kept[changed] == (255, 0, 0)).all()
        else:
            assert not changed[0].any()  # the square's border stays white
            assert len(np.unique(kept.reshape(-1, 3), axis=0)) == 3  # two plain pictures and the square
    again = builder._question(POOL.rows[0], POOL, 1)
    assert isinstance(again, mia_dpo._Question)
    assert (np.asarray(again.asked[0].parts[0].data) == asked).all()


def test_questions_about_a_picture_that_is_not_there() -> None:
    builder = MiaDpo(
        layouts=("sequence", "collage"),
        sequence=Limits((2,), (0.8,)),
        collage=Limits((2,), (0.7,)),
        negative=1.0,
    )
    found = builder._question(POOL.rows[0], POOL, 0)
    assert isinstance(found, mia_dpo._Question) and found.target is None
    assert found.chosen == "There is no Image3; only 2 images are given."
    assert said(found.kept[0]).endswith("In Image3, what is it?")


# ---------------------------------------------------------------- balance


def closed(answers: list[str]) -> list[dict[str, str]]:
    return [{"id": f"{place}/sequence", "chosen": answer} for place, answer in enumerate(answers)]


def test_as_many_pairs_of_each_answer_as_of_the_rarest_stay() -> None:
    answers = ["no"] * 9 + ["Yes.", "yes, it is", "No, a box"] + ["red"] * 4 + ["Yesterday", "-"]
    rows = closed(answers)
    out = MiaDpo(balance=("yes", "No")).sift(iter(rows))
    assert set(out.values()) == {mia_dpo.FREQUENT} and len(out) == 8
    left = Counter(row["chosen"] for row in rows if row["id"] not in out)
    assert left["no"] + left["No, a box"] == 2 and left["Yes."] + left["yes, it is"] == 2
    assert left["red"] == 4 and left["Yesterday"] == left["-"] == 1  # no closed answer that was named
    assert MiaDpo().sift(iter(rows)) == {}


def test_what_stays_hangs_on_ids_and_not_on_the_order() -> None:
    rows = closed(["no"] * 40 + ["yes"] * 10)
    builder = MiaDpo(balance=("yes", "no"))
    out = builder.sift(iter(rows))
    assert builder.sift(reversed(rows)) == out
    assert set(out) != {row["id"] for row in rows[10:40]}  # not merely the last ones
    assert len(builder.sift(closed(["no"] * 5))) == 5  # none is as rare as an answer that nobody chose


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"balance": ("yes",)}, "balance: must be two"),
        ({"balance": ("yes", "Yes")}, "balance: must be two"),
        ({"balance": ("yes", "no way")}, "balance: must be two"),
        ({"layouts": ()}, "layouts: must name"),
        ({"collage": Limits((5,), (0.5,))}, "collage.counts: must be among"),
        ({"layer": 1.0}, "layer: must be"),
        ({"cell": 8}, "cell: must be 16"),
        ({"pic_in_pic": 1.2}, "pic_in_pic: must lie"),
        ({"layouts": ("pic_in_pic",), "negative": 0.5}, "negative: pictures of pic_in_pic"),
        ({"len_ratio": (3.0, 0.3)}, "len_ratio: must be"),
        ({"cell_noise": -1.0}, "cell_noise: must be"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        MiaDpo(**settings)


@pytest.mark.parametrize(
    ("counts", "share", "told"),
    [
        ((2, 3), (0.5,), "share: must have"),
        ((1,), (0.5,), "counts: must be 2"),
        ((2,), (0.0,), "share: must lie"),
    ],
)
def test_limits_that_cannot_be(counts: tuple[int, ...], share: tuple[float, ...], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Limits(counts, share)
