"""Partners for views of other pictures, where rows hold lists of pictures that begin alike."""

from collections.abc import Mapping
from itertools import combinations
from typing import Literal

import pytest
from PIL import Image

from mmalign.data._loader import Loader, Recipe
from mmalign.data._order import Order
from mmalign.data._views import partnerless
from mmalign.types import Example, Message, Part, PreferenceSample, Prepared, UserError, View

VIEWS = {"view": View("chosen", "other_image")}


MEAN = {"view": View("chosen", "mean_image", 3)}


def row(name: str, *shades: int) -> PreferenceSample:
    media = tuple(Part("image", Image.new("RGB", (4, 4), (shade, 0, 0))) for shade in shades)
    prompt = (Message("user", (*media, Part("text", "what is it?"))),)
    return PreferenceSample(name, {"chosen": (Example(prompt, (Part("text", "a"),)),)}, origin=f"row {name}")


def shown(
    rows: list[PreferenceSample],
    views: Mapping[str, View] = VIEWS,
    redraw: Literal["once", "epoch"] = "epoch",
) -> dict[str, tuple[list[int], list[int]]]:
    """Shades of the pictures of every row, and of its view in the last of three epochs."""
    found = {}

    def prepare(sample: PreferenceSample, roles: object) -> Prepared:
        lists = [
            [part.data.getpixel((0, 0))[0] for part in sample.examples[role][0].prompt[0].parts[:-1]]
            for role in ("chosen", "view")
        ]
        found[sample.id] = (lists[0], lists[1])
        return Prepared(sample.id, ())

    recipe = Recipe(prepare, ("chosen", "view"), views, redraw)
    list(Loader([rows], Order(3, (len(rows),), 1), recipe).steps(0, 3 * len(rows)))
    return found


def test_a_partner_whose_list_begins_alike_is_none_for_a_shorter_row() -> None:
    rows = [row("a", 1), row("ab", 1, 2), row("abc", 1, 2, 3), row("d", 9)]
    found = shown(rows)
    assert found["a"] == ([1], [9])
    assert all(own != other for own, other in found.values())


def test_rows_that_only_grow_have_no_partner_for_the_shortest() -> None:
    with pytest.raises(UserError, match="row a: role 'view' needs a row of the same source with other media"):
        shown([row("a", 1), row("ab", 1, 2), row("abc", 1, 2, 3)])


def test_rows_without_a_partner_are_found_beforehand() -> None:
    rows = [row("a", 1), row("ab", 1, 2), row("abc", 1, 2, 3)]
    assert list(partnerless(rows, VIEWS)) == [0]
    assert partnerless(rows, VIEWS)[0].startswith("row a: role 'view' needs a row of the same source")
    assert partnerless([*rows, row("d", 9)], VIEWS) == {}
    assert list(partnerless([row("a", 1), row("b", 1)], VIEWS)) == [0, 1]
    assert partnerless(rows, {"view": View("chosen", "crop")}) == {}


@pytest.mark.parametrize("redraw", ["epoch", "once"])
def test_a_mean_is_of_other_pictures_each_once(redraw: Literal["once", "epoch"]) -> None:
    """Two rows show each shade; sums of three different powers of two tell which were averaged."""
    shades = [3, 6, 12, 24, 48]
    rows = [row(f"{shade}-{n}", shade) for shade in shades for n in range(2)]
    found = shown(rows, MEAN, redraw)
    for (own,), (mean,) in found.values():
        others = [shade for shade in shades if shade != own]
        assert mean in [sum(some) // 3 for some in combinations(others, 3)]
    assert len({mean[0] for _, mean in found.values()}) > 2
    assert found == shown(rows, MEAN, redraw)


def test_no_picture_of_a_mean_is_one_of_the_row() -> None:
    rows = [row("ab", 1, 2), row("bc", 2, 3), row("d", 30), row("ef", 60, 90), row("g", 120)]
    own, mean = shown(rows, MEAN)["ab"]
    assert own == [1, 2] and mean == [(30 + 60 + 120) // 3, (30 + 90 + 120) // 3]
    four = {"view": View("chosen", "mean_image", 4)}
    assert partnerless(rows, four)[0].startswith("row ab: role 'view' is made of 4 rows")
    with pytest.raises(UserError, match="^row (ab|bc): .* and there are 3; add rows"):
        shown(rows, four)


def test_too_few_other_pictures_are_told_of_beforehand() -> None:
    rows = [row(str(n), n // 2) for n in range(6)]
    line = (
        "row 0: role 'view' is made of 3 rows of the same source that show other media of the same kinds, no "
        "two the same, and there are 2; add rows, or ask for fewer"
    )
    assert partnerless(rows, MEAN)[0] == line and len(partnerless(rows, MEAN)) == 6
    with pytest.raises(
        UserError, match=r"^row .: role 'view' is made of 3 rows .* and there are 2; add rows"
    ):
        shown(rows, MEAN)
    assert partnerless([*rows, row("more", 9)], MEAN) == {}
