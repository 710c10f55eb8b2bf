"""Views in the loader: from which numbers they are drawn, who may be a partner, what probes leave out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from samples import pair
from torch import Tensor
from view_rows import SEEDED, clip, media_of, picture, seen

from mmalign.clips import Frames
from mmalign.data._loader import Loader, Recipe
from mmalign.data._order import Order
from mmalign.data._views import CHANGES
from mmalign.types import Example, Item, Message, Part, PreferenceSample, Prepared, Row, UserError, View

pytestmark = pytest.mark.usefixtures("one_thread")


def pixels_of(sample: PreferenceSample, roles: tuple[str, ...]) -> Prepared:
    """What an adapter would do: one row per role with the pixels of its prompt's first medium."""
    rows = []
    for role in roles:
        parts = [p for turn in sample.examples[role][0].prompt for p in turn.parts if p.kind != "text"]
        frames = [torch.tensor(media_of(sample.examples[role][0])[0])] if parts else [torch.zeros(0)]
        rows.append(Row(role, 0, {"pixels": frames[0]}))
    return Prepared(sample.id, tuple(rows))


def items(samples: list[PreferenceSample], steps: int = 1, **recipe: Any) -> dict[tuple[int, str], Item]:
    """Items by epoch and sample, one epoch per step."""
    order = Order(seed=5, sizes=(len(samples),), batch=len(samples))
    loader = Loader([samples], order, Recipe(pixels_of, frames=Frames(), **recipe))
    return {(item.epoch, item.id): item for step in loader.steps(0, steps) for item in step}


def view_of(item: Item, role: str = "view") -> Tensor:
    (row,) = [row for row in item.prepared.rows if row.role == role]
    return row.data["pixels"]


ROWS = [seen(picture(number), name=str(number)) for number in range(6)]


@pytest.mark.parametrize("change", SEEDED)
def test_redraw(change: str) -> None:
    rows = [seen(clip(6, number), name=str(number)) for number in range(4)]
    recipe = {"roles": ("chosen", "view"), "views": {"view": View("chosen", change)}}
    once = items(rows, 2, redraw="once", **recipe)
    assert all(torch.equal(view_of(once[0, row.id]), view_of(once[1, row.id])) for row in rows)
    fresh = items(rows, 2, redraw="epoch", **recipe)
    assert any(not torch.equal(view_of(fresh[0, row.id]), view_of(fresh[1, row.id])) for row in rows)
    assert all(torch.equal(view_of(fresh[0, row.id]), view_of(once[0, row.id])) for row in rows)


@pytest.mark.parametrize("change", [name for name, change in CHANGES.items() if name != "no_image"])
def test_nothing_is_kept_of_a_view_that_is_drawn_anew(change: str) -> None:
    def keyed(sample: PreferenceSample, roles: tuple[str, ...]) -> Prepared:
        return Prepared(sample.id, tuple(Row(role, 0, {}, role) for role in roles))

    rows = [seen(clip(3, number), name=str(number), text=f"question {number}?") for number in range(3)]
    recipe = Recipe(keyed, ("chosen", "view"), {"view": View("chosen", change)}, frames=Frames())
    for redraw in ("epoch", "once"):
        loader = Loader([rows], Order(5, (3,), 3), replace(recipe, redraw=redraw))  # type: ignore[arg-type]
        keys = {row.key for item in next(loader.steps(0, 1)) for row in item.prepared.rows}
        passing = redraw == "epoch" and change not in ("black", "gray", "reversed_frames")
        assert keys == {"chosen", None if passing else "view"}


def test_a_view_depends_on_its_sample_alone() -> None:
    recipe = Recipe(pixels_of, ("chosen", "view"), {"view": View("chosen", "noise")})
    torch.manual_seed(0)
    before = torch.get_rng_state()
    whole = {i.id: view_of(i) for i in next(Loader([ROWS], Order(5, (6,), 6), recipe).steps(0, 1))}
    assert torch.equal(before, torch.get_rng_state())
    for rank in (0, 1):
        share = Loader([ROWS], Order(5, (6,), 3, processes=2, rank=rank), recipe).steps(0, 2)
        for item in (item for step in share for item in step):
            assert torch.equal(view_of(item), whole[item.id])
    two = items(ROWS, roles=("view", "twin"), views={r: View("chosen", "noise") for r in ("view", "twin")})
    assert all(torch.equal(view_of(item), whole[item.id]) for item in two.values())
    assert not any(torch.equal(view_of(item), view_of(item, "twin")) for item in two.values())


@pytest.mark.multiprocess
def test_workers_draw_the_same_views() -> None:
    recipe = Recipe(pixels_of, ("chosen", "view"), {"view": View("chosen", "crop")})
    here, there = (
        {i.id: view_of(i) for i in next(Loader([ROWS], Order(5, (6,), 6), recipe, n, 60).steps(0, 1))}
        for n in (0, 1)
    )
    assert all(torch.equal(here[name], there[name]) for name in here)


@pytest.mark.parametrize("redraw", ["epoch", "once"])
def test_the_other_picture_is_another_picture(redraw: str) -> None:
    """Two questions about each picture: the partner must show another picture, not ask something else."""
    rows = [seen(picture(n // 2), name=str(n), text=f"question {n}?") for n in range(6)]
    views = {"view": View("chosen", "other_image")}
    found = items(rows, 2, roles=("chosen", "view"), views=views, redraw=redraw)
    for (_, name), item in found.items():
        shown = view_of(item)
        others = [n for n in range(3) if np.array_equal(np.asarray(picture(n)), shown.numpy())]
        assert len(others) == 1 and others[0] != int(name) // 2


def test_partners_show_media_of_the_same_kinds() -> None:
    rows = [seen(picture(n), name=f"p{n}") for n in range(3)] + [
        seen(clip(2, n), name=f"c{n}") for n in range(3)
    ]
    found = items(rows, roles=("chosen", "view"), views={"view": View("chosen", "other_image")})
    assert all(view_of(item).dim() == (3 if name[0] == "p" else 4) for (_, name), item in found.items())


def test_one_picture_for_all_rows_has_no_other() -> None:
    rows = [seen(picture(1), name=str(n), text=f"question {n}?") for n in range(4)]
    with pytest.raises(UserError, match="test row .: role 'view' needs a row of the same source with"):
        items(rows, roles=("chosen", "view"), views={"view": View("chosen", "other_image")})


def test_two_views_may_have_different_partners() -> None:
    """A foreign answer needs another prompt, a foreign picture another picture."""
    rows = [seen(picture(n // 2), name=str(n), text=f"question {n}?") for n in range(6)]
    views = {"view": View("chosen", "other_image"), "mismatched": View("rejected", "other_response")}
    found = items(rows, roles=("chosen", "view", "mismatched"), views=views)
    for (_, name), item in found.items():
        own = np.asarray(picture(int(name) // 2))
        assert np.array_equal(view_of(item, "mismatched").numpy(), own)
        assert not np.array_equal(view_of(item).numpy(), own)


def test_probes_are_left_off_rows_they_cannot_be_made_of() -> None:
    bare = Example((Message("user", (Part("image", picture(2)),)),), (Part("text", "red"),))
    rows = [seen(picture(1), name="picture"), pair("text")]
    rows.append(PreferenceSample("bare", {"chosen": (bare,), "rejected": (bare,)}, origin="test row bare"))
    probes = {
        "chosen/no_image": View("chosen", "no_image"),
        "rejected/no_image": View("rejected", "no_image"),
    }
    found = items(rows, roles=("chosen",), probes=probes)
    roles = {name: [row.role for row in item.prepared.rows] for (_, name), item in found.items()}
    assert roles == {"picture": ["chosen", *probes], "text": ["chosen"], "bare": ["chosen"]}
    assert set(found[0, "picture"].row_labels) == {"chosen"}


def test_probes_that_the_adapter_refuses_are_left_off() -> None:
    def needs_a_picture(sample: PreferenceSample, roles: tuple[str, ...]) -> Prepared:
        if any(not media_of(sample.examples[role][0]) for role in roles):
            raise UserError("no picture")
        return pixels_of(sample, roles)

    recipe = Recipe(needs_a_picture, ("chosen",), probes={"blind": View("chosen", "no_image")})
    (step,) = Loader([ROWS], Order(5, (6,), 6), recipe).steps(0, 1)
    assert all([row.role for row in item.prepared.rows] == ["chosen"] for item in step)
