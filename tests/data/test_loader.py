"""The loader: the same items for any number of workers and processes, from any start; clear failures."""

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from samples import pair, prepare, single, text_of_row
from torch.utils.data import _utils

from mmalign.data._loader import Loader, Recipe
from mmalign.data._order import Order
from mmalign.data._paths import File
from mmalign.data._sources import Skipped
from mmalign.data._workers import LoaderError
from mmalign.types import Item, Part, PreferenceSample, Prepared, UserError, View

PAIRS = [pair(str(number), margin=float(number)) for number in range(11)]
ROLES = ("chosen", "rejected")


def _loader(samples: list[PreferenceSample], recipe: Recipe, workers: int = 0, **order: int) -> Loader:
    options = {"seed": 1, "batch": 4, **order}
    return Loader([samples], Order(sizes=(len(samples),), **options), recipe, workers, timeout_s=60)


def _seen(steps: list[list[Item]]) -> list[list[tuple]]:
    return [
        [(item.id, item.epoch, item.weight, *map(text_of_row, item.prepared.rows)) for item in items]
        for items in steps
    ]


def test_items_carry_rows_labels_and_weight() -> None:
    samples = [replace(pair("a", margin=2.5), weight=3.0), pair("b")]
    samples[0] = replace(
        samples[0],
        examples={
            role: (replace(samples[0].examples[role][0], labels={"score": score}),)
            for role, score in (("chosen", 7.0), ("rejected", 1.0))
        },
    )
    (step,) = _loader(samples, Recipe(prepare, ROLES), batch=2).steps(0, 1)
    item = next(item for item in step if item.id == "a")
    assert (item.labels, item.weight, item.epoch, item.origin) == ({"margin": 2.5}, 3.0, 0, "test row a")
    assert item.row_labels == {"chosen": ({"score": 7.0},), "rejected": ({"score": 1.0},)}
    assert [text_of_row(row) for row in item.prepared.rows] == ["prompt a|chosen a", "prompt a|rejected a"]


@pytest.mark.multiprocess
def test_workers_and_start_change_nothing() -> None:
    recipe = Recipe(prepare, ROLES)
    straight = _seen(list(_loader(PAIRS, recipe).steps(0, 9)))
    assert _seen(list(_loader(PAIRS, recipe).steps(5, 9))) == straight[5:]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert _seen(list(_loader(PAIRS, recipe, workers=2).steps(2, 9))) == straight[2:]
    assert torch.equal(before, torch.get_rng_state())


def test_processes_get_shares_of_the_same_steps() -> None:
    recipe = Recipe(prepare, ROLES)
    whole = _seen(list(_loader(PAIRS, recipe).steps(0, 5)))
    shares = [_seen(list(_loader(PAIRS, recipe, processes=2, rank=rank).steps(0, 5))) for rank in (0, 1)]
    for step, items in enumerate(whole):
        assert shares[0][step] == items[0::2]
        assert shares[1][step] == items[1::2]


@pytest.mark.multiprocess
def test_an_endless_iterator_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once: a worker that does not leave by itself is waited for as long as the library waits."""
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 60.0)
    steps = _loader(PAIRS, Recipe(prepare, ROLES), workers=1).steps(0)
    next(steps)
    start = time.monotonic()
    steps.close()  # type: ignore[attr-defined]
    assert time.monotonic() - start < 30


# ---------------------------------------------------------------- views


@pytest.mark.parametrize("redraw", ["epoch", "once"])
def test_mismatched_response_comes_from_another_prompt(redraw: str) -> None:
    halves = [single(f"{n}{side}", f"prompt {n}") for n in range(5) for side in "ab"]
    view = {"mismatched": View("completion", "other_response")}
    recipe = Recipe(prepare, ("completion", "mismatched"), view, redraw)  # type: ignore[arg-type]
    steps = list(_loader(halves, recipe, batch=5).steps(0, 4))
    found: dict[int, dict[str, str]] = {0: {}, 1: {}}
    for item in (item for items in steps for item in items):
        own, other = map(text_of_row, item.prepared.rows)
        prompt, response = other.split("|")
        assert prompt == own.split("|")[0]
        assert response.removeprefix("answer ")[0] != item.id[0]
        found[item.epoch][item.id] = response
    assert len(found[0]) == len(found[1]) == 10
    assert (found[0] == found[1]) == (redraw == "once")


def test_partner_does_not_depend_on_processes() -> None:
    samples = [single(str(number)) for number in range(9)]
    recipe = Recipe(
        prepare, ("completion", "mismatched"), {"mismatched": View("completion", "other_response")}
    )
    whole = _seen(list(_loader(samples, recipe).steps(0, 5)))
    half = _seen(list(_loader(samples, recipe, processes=2, rank=1).steps(0, 5)))
    assert half == [items[1::2] for items in whole]


def test_unknown_views_and_missing_roles_are_refused() -> None:
    with pytest.raises(UserError, match="unknown change 'upside_down'; known: other_response"):
        Recipe(prepare, ROLES, {"odd": View("chosen", "upside_down")})
    with pytest.raises(UserError, match="test row .: has no role 'completion', only chosen, rejected"):
        list(_loader(PAIRS, Recipe(prepare, ("completion",))).steps(0, 1))
    view = Recipe(prepare, ("completion",), {"mismatched": View("completion", "other_response")})
    with pytest.raises(UserError, match="view 'mismatched' needs the role 'completion'"):
        list(_loader(PAIRS, view).steps(0, 1))


# ---------------------------------------------------------------- failures


@dataclass(frozen=True)
class Trouble:
    """A prepare function that does something to one sample."""

    sample: str
    kind: str
    folder: Path | None = None

    def __call__(self, sample: PreferenceSample, roles: tuple[str, ...]) -> Prepared:
        if sample.id == self.sample and self.kind == "refuse":
            raise UserError(f"{sample.origin}: too long")
        if sample.id == self.sample and self.kind == "bug":
            raise KeyError("nonsense")
        if sample.id == self.sample and self.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if sample.id == self.sample and self.kind == "hang":
            time.sleep(600)
        return prepare(sample, roles)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.multiprocess)])
def test_a_late_failure_stops_or_gets_weight_zero(workers: int) -> None:
    trouble = Trouble("3", "refuse")
    with pytest.raises(UserError, match="^test row 3: too long$"):
        list(_loader(PAIRS, Recipe(trouble, ROLES), workers).steps(0, 3))
    noted: list[tuple[int, Skipped]] = []
    order = Order(seed=1, sizes=(11,), batch=11)
    recipe = Recipe(trouble, ROLES, on_error="skip")
    loader = Loader([PAIRS], order, recipe, workers, 60, lambda step, row: noted.append((step, row)))
    steps = list(loader.steps(0, 2))
    assert [len(items) for items in steps] == [11, 11]
    for items in steps:
        weights = {item.id: (item.weight, len(item.prepared.rows)) for item in items}
        assert weights.pop("3") == (0.0, 0)
        assert set(weights.values()) == {(1.0, 2)}
    assert noted == [(step, Skipped("3", "test row 3", "test row 3: too long")) for step in (0, 1)]


def test_a_picture_that_vanished_is_named(tmp_path: Path) -> None:
    gone = Part("image", File(str(tmp_path), "gone.png"))
    samples = [replace(one, examples={**one.examples, "chosen": _with(one, gone)}) for one in PAIRS]
    with pytest.raises(UserError, match="test row .*role 'chosen', image 'gone.png': .*no such file"):
        list(_loader(samples, Recipe(prepare, ROLES)).steps(0, 1))


def _with(sample: PreferenceSample, part: Part) -> tuple:
    return (replace(sample.examples["chosen"][0], response=(part,)),)


@pytest.mark.multiprocess
def test_a_bug_in_a_worker_shows_its_traceback() -> None:
    with pytest.raises(LoaderError, match="(?s)preparing step 0 .*test row.*failed.*KeyError: 'nonsense'"):
        list(_loader(PAIRS[:4], Recipe(Trouble("3", "bug"), ROLES), workers=1).steps(0, 1))


@pytest.mark.multiprocess
def test_a_killed_worker_ends_the_run_and_names_the_step() -> None:
    start = time.monotonic()
    with pytest.raises(LoaderError, match=r"worker died while preparing step 0 \(test row .*fewer workers"):
        list(_loader(PAIRS[:4], Recipe(Trouble("3", "die"), ROLES), workers=1).steps(0, 1))
    assert time.monotonic() - start < 30


@pytest.mark.multiprocess
def test_a_hanging_worker_ends_the_run_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_utils, "MP_STATUS_CHECK_INTERVAL", 0.5)  # how long the library waits for it to leave
    loader = _loader(PAIRS[:4], Recipe(Trouble("3", "hang"), ROLES), workers=1)
    loader.timeout_s = 1.0
    before = set(multiprocessing.active_children())
    with pytest.raises(LoaderError, match=r"no answer within 1 s while preparing step 0 \(test row"):
        list(loader.steps(0, 1))
    for _ in range(50):
        if not set(multiprocessing.active_children()) - before:
            break
        time.sleep(0.1)
    assert not set(multiprocessing.active_children()) - before


@dataclass(frozen=True)
class StopGroup:
    """Signals the process it runs in, as a stop of the whole process group does."""

    def __call__(self, sample: PreferenceSample, roles: tuple[str, ...]) -> Prepared:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        return prepare(sample, roles)


@pytest.mark.multiprocess
def test_workers_leave_stop_signals_to_the_main_process() -> None:
    steps = list(_loader(PAIRS, Recipe(StopGroup(), ROLES), workers=1).steps(0, 2))
    assert [len(items) for items in steps] == [4, 4]
