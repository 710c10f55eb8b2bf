"""Partners for views of other pictures, where rows hold lists of pictures that begin alike."""

import pytest
from PIL import Image

from mmalign.data._loader import Loader, Recipe
from mmalign.data._order import Order
from mmalign.data._views import partnerless
from mmalign.types import Example, Message, Part, PreferenceSample, Prepared, UserError, View

VIEWS = {"view": View("chosen", "other_image")}


def row(name: str, *shades: int) -> PreferenceSample:
    media = tuple(Part("image", Image.new("RGB", (4, 4), (shade, 0, 0))) for shade in shades)
    prompt = (Message("user", (*media, Part("text", "what is it?"))),)
    return PreferenceSample(name, {"chosen": (Example(prompt, (Part("text", "a"),)),)}, origin=f"row {name}")


def shown(rows: list[PreferenceSample]) -> dict[str, tuple[list[int], list[int]]]:
    """Shades of the pictures of every row, and of its view."""
    found = {}

    def prepare(sample: PreferenceSample, roles: object) -> Prepared:
        lists = [
            [part.data.getpixel((0, 0))[0] for part in sample.examples[role][0].prompt[0].parts[:-1]]
            for role in ("chosen", "view")
        ]
        found[sample.id] = (lists[0], lists[1])
        return Prepared(sample.id, ())

    recipe = Recipe(prepare, ("chosen", "view"), VIEWS)
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
