"""BDHS: masks and tries on a model that is watched, then a build that objective bdhs trains on."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from builders.builds import content
from PIL import Image
from torch import Tensor
from training.faults import ALONE
from training.tiny_runs import losses

import mmalign
from mmalign import config as configs
from mmalign.adapters.text import Text
from mmalign.blind.answers import CUT, EMPTY, EQUAL, MEDIA
from mmalign.builders import _config, _run
from mmalign.builders._candidates import Asked
from mmalign.builders._run import build
from mmalign.builders._whole_rows import Pool, Remade, Tools
from mmalign.builders.bdhs import Bdhs
from mmalign.training.run import run
from mmalign.types import Message, Part, PreferenceSample, UserError

ROOT = Path(mmalign.__file__).parent.parent

# ---------------------------------------------------------------- tries


class Watched:
    """Goes on with given words; keeps what it was asked."""

    device = torch.device("cpu")

    def __init__(self, *tails: str, places: int = 576) -> None:
        self.tails, self.places = list(tails), places
        self.calls: list[tuple[list[str], list[Tensor]]] = []
        self.seeds: list[int] = []

    def check(self, sample: PreferenceSample, roles: Sequence[str]) -> Sequence[str]:
        (answer,) = sample.examples[roles[0]][0].response
        return ["answers cut"] if len(answer.data) > 40 else []

    def media_tokens(self, prompts: Sequence[Any]) -> list[tuple[int, ...]]:
        return [(self.places, self.places)] * len(prompts)

    def complete(self, model: Any, prompts: Any, begun: Any, seeds: Any, visible: Any = None) -> list[Part]:
        assert len(set(seeds)) == len(seeds)
        self.seeds += seeds
        self.calls.append((list(begun), list(visible)))
        tails = self.tails.pop(0).split("|") if self.tails else [""] * len(begun)
        return [Part("text", tail) for tail in tails]


PICTURE = Part("image", Image.new("RGB", (4, 4)))


def row(answer: str, rejected: str | None = None, name: str = "r", picture: bool = True) -> Asked:
    media = (PICTURE,) if picture else ()
    sides = {} if rejected is None else {"rejected": (Part("text", rejected),)}
    turns = (Message("user", (*media, Part("text", "What is it?"))),)
    return Asked(name, turns, (Part("text", answer),), "row", sides)


def made(model: Watched, *rows: Asked, **fields: Any) -> list[Remade]:
    builder = Bdhs(**{"encoder": None, "flip": 0.0, **fields})
    tools = Tools(Pool(rows), model, SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    return builder.make(rows, tools, 3)


def test_the_mask_hides_that_share_and_is_one_for_all_sentences() -> None:
    for rho, least, most in ((0.99, 0, 30), (0.5, 500, 650), (0.0, 1152, 1152), (1.0, 0, 0)):
        model = Watched(" x.| y.")
        (remade,) = made(model, row("A cat. A dog."), rho=rho)
        ((begun, (first, second)),) = model.calls
        assert len(begun) == 2 and torch.equal(first, second) and first.shape == (1152,)
        assert least <= int(first.sum()) <= most
        told = remade.rows[0].told
        assert told["places"] == 1152 and told["hidden"] == 1152 - int(first.sum())
        assert told["seeds"] == {"bdhs": model.seeds}


def test_a_try_too_much_alike_is_drawn_again_and_the_last_is_free() -> None:
    same = "a b c d e f g h"

    # cut anywhere, the true rest gives the answer itself: built by a model that knows it
    class Knowing(Watched):
        def complete(
            self, model: Any, prompts: Any, begun: Any, seeds: Any, visible: Any = None
        ) -> list[Part]:
            self.calls.append((list(begun), list(visible)))
            return [Part("text", "other words" if self.free(one) else same[len(one) :]) for one in begun]

        def free(self, begun: str) -> bool:
            return len(self.calls) == 6

    model = Knowing()
    (remade,) = made(model, row(same))
    (new,) = remade.rows
    assert new.answers["bdhs"] == Part("text", "other words") and new.told["free"] and new.told["try"] == 6
    assert len(model.calls) == 6 and model.calls[-1][0] == [""]
    shown = {tuple(visible[0].tolist()) for _, visible in model.calls}
    assert len(shown) == 6, "every try has its own mask"
    assert len({begun[0] for begun, _ in model.calls[:5]}) > 1, "and its own cut"
    (again,) = made(Knowing(), row(same), tries=4)
    assert again.rows == () and again.counts == {EQUAL: 1}, "the free answer was the fifth"


def test_the_cosine_decides_which_try_is_taken() -> None:
    for eps, tries in ((0.97, 1), (0.1, 2)):
        (remade,) = made(Watched(" x", " zzz", " zzz"), row("One two."), eps=eps, tries=1)
        assert remade.rows[0].told["try"] == tries and remade.rows[0].told["free"] == (tries == 2)
    (remade,) = made(Watched(" zzz", " zzz"), row("One."), eps=0.0, tries=1)
    told = remade.rows[0].told
    assert (told["cosine"], told["try"]) == (0.0, 1), "a cosine of eps itself is taken"


def test_rows_do_not_depend_on_each_other_and_keep_what_they_have() -> None:
    rows = [row("A cat.", "A cow.", "one"), row("A cat.", None, "two"), row("A", "x", "three", picture=False)]
    whole = made(Watched(" x.| y."), *rows)
    (alone,) = made(Watched(" y."), rows[1])
    assert whole[1] == alone and whole[2].counts == {MEDIA: 1}
    assert set(whole[0].rows[0].answers) == {"chosen", "rejected", "bdhs"}
    assert set(alone.rows[0].answers) == {"chosen", "bdhs"}
    assert whole[0].rows[0].answers["rejected"].data == "A cow."  # type: ignore[union-attr]
    (empty,) = made(Watched(), row("A cat."), tries=0)
    assert empty.counts == {EMPTY: 1}


def test_white_space_around_the_answer_tells_no_side_from_another() -> None:
    for tries, tail in ((1, " x."), (0, " y. \n\n")):
        (remade,) = made(Watched(tail), row("\n A cat.\t\n", " A cow.\n"), tries=tries)
        answers = {role: part.data for role, part in remade.rows[0].answers.items()}  # type: ignore[union-attr]
        assert (answers["chosen"], answers["rejected"]) == ("\n A cat.\t\n", " A cow.\n")
        assert answers["bdhs"] == f"\n {answers['bdhs'].strip()}\t\n" and answers["bdhs"].strip()
    (same,) = made(Watched("A cat."), row(" A cat.\n"), tries=0)
    assert same.counts == {EQUAL: 1}, "white space makes no other answer"
    (blank,) = made(Watched("A cat."), row(" \n"), tries=0)
    assert blank.rows[0].answers["bdhs"] == Part("text", " \nA cat.")


def test_an_answer_that_is_cut_is_not_written_on() -> None:
    model = Watched(" y.")
    long, short = made(model, row("A cat. " * 9, name="long"), row("A cat."))
    assert long.counts == {CUT: 1} and long.rows == () and short.rows
    assert all(len(begun) == 1 for begun, _ in model.calls)


def test_one_word_is_turned_without_asking_the_model() -> None:
    model = Watched()
    (remade,) = made(model, row("yes"), flip=1.0)
    assert remade.rows[0].answers["bdhs"] == Part("text", "no") and model.calls == []


# ---------------------------------------------------------------- builds


def config(output: Path, *more: str) -> _config.BuildConfig:
    """The shipped config, with few rows."""
    small = ["num_prompts=5", "batch=3", "model.generation.max_new_tokens=16", "log.progress=false"]
    path = f"model.path={ROOT}/mmalign/shapes/models/vlm"
    return _config.load(ROOT / "configs/build/bdhs.yaml", [path, *small, f"output={output}", *more])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A build; others in this module use its model."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("bdhs") / "built"
    loaded = _run.open_model(config(folder), torch.device("cpu"), False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_run, "open_model", lambda *given: loaded)
        yield build(config(folder), ALONE)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


def test_rows_differ_from_the_answer_by_what_was_not_seen(built: Path) -> None:
    found = rows_of(built)
    record = json.loads((built / "build.json").read_text())
    assert len(found) + sum(record["left_out"].values()) == 5 and len(found) >= 4
    for one in found:
        assert len({one["chosen"], one["bdhs"]}) == 2 and one["rejected"]
        assert one["built"]["cosine"] <= 0.97 or one["built"]["free"]
        assert one["built"]["places"] == 16 and one["built"]["hidden"] > 8


def test_any_batch_gives_the_same_rows(built: Path, tmp_path: Path) -> None:
    build(config(tmp_path / "other", "batch=5"), ALONE)
    assert content(tmp_path / "other")["pairs.jsonl"] == content(built)["pairs.jsonl"]


def test_objective_bdhs_trains_on_what_was_built(built: Path, tmp_path: Path) -> None:
    trained = run(
        configs.load(
            ROOT / "configs/objectives/vlm/bdhs.yaml",
            [
                f"model.path={ROOT}/mmalign/shapes/models/vlm",
                f"data={{source: jsonl, path: {built}/pairs.jsonl}}",
                *("heldout=null", "evaluation=null", f"output={tmp_path}/trained"),
                *(
                    "train.steps=2",
                    "train.batch=4",
                    "train.warmup_steps=0",
                    "log={every: 1, progress: false}",
                ),
            ],
        )
    )
    first, second = losses(trained)
    assert first == pytest.approx(math.log(2), abs=1e-5) and math.isfinite(second) and first != second


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["builder.rho=1.5"], r"rho: must lie in \[0, 1\]"),
        (["builder.eps=2"], "eps: is a cosine"),
        (["builder.tries=-1"], "tries: must be 0 or more"),
        (["judge=brightness"], "judge: builder bdhs asks none"),
    ],
)
def test_what_cannot_be_built_is_refused(more: list[str], told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        build(config(tmp_path / "out", *more), ALONE)
    assert not (tmp_path / "out").exists()


def test_an_encoder_that_is_not_there_is_refused() -> None:
    watched: Any = Watched()
    Bdhs(encoder=None).ready_for(watched)
    with pytest.raises(UserError, match="builder.encoder: there is no folder ./nowhere"):
        Bdhs(encoder="./nowhere").ready_for(watched)


def test_a_model_that_hides_nothing_is_refused() -> None:
    adapter: Any = Text(str(ROOT / "mmalign/shapes/models/text")).build(torch.device("cpu"))
    with pytest.raises(UserError, match="hides no places of pictures; use adapter vlm or video_lm"):
        Bdhs(encoder=None).ready_for(adapter)
