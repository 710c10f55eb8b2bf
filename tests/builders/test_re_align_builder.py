"""Re-Align: similar pictures found, gaps filled under them, fillings taken by their cosine; counts."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from rewards.tiny_clip import picture as noise
from rewards.tiny_clip import save_open_clip
from torch import Tensor, nn
from training.faults import ALONE
from training.tiny_runs import losses

import mmalign
from mmalign import config as configs
from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.builders import _config, re_align
from mmalign.builders._candidates import Asked
from mmalign.builders._retrieval import Index, Towers, by_towers
from mmalign.builders._run import build
from mmalign.builders._whole_rows import Pool, Remade, Tools
from mmalign.builders.re_align import ReAlign
from mmalign.data._media import decode
from mmalign.data._paths import File
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.rewards._alike import word_cosine
from mmalign.shapes.gaps import gaps
from mmalign.training.run import run
from mmalign.types import Message, Part, UserError
from mmalign.writers.python_function import PythonFunction

ROOT = Path(mmalign.__file__).parent.parent
HELPER = PythonFunction("mmalign.shapes.gaps:gaps")
BRIGHT, DARK, DARKER, BLACK = (Image.new("RGB", (4, 4), (level,) * 3) for level in (255, 60, 20, 0))
ALMOST = Image.new("RGB", (4, 4), (3,) * 3)


def row(name: str, *pictures: Any, answer: str = "a red circle and a blue cross") -> Asked:
    turns = (Message("user", (*(Part("image", one) for one in pictures), Part("text", "What is there?"))),)
    return Asked(name, turns, (Part("text", answer),))


def levels(pictures: Sequence[Part]) -> Tensor:
    """A vector of length 1 of how bright a picture is."""
    angles = torch.tensor([one.data.getpixel((0, 0))[0] / 255 for one in pictures])
    return torch.stack([angles.cos(), angles.sin()], 1)


# ---------------------------------------------------------------- pictures


def test_the_likest_pictures_come_first_and_the_own_not_at_all() -> None:
    rows = [row("a", BRIGHT), row("b", BLACK), row("c", DARK), row("again", BLACK.copy()), row("d", DARKER)]
    odd = [row("none"), row("two", DARK, BLACK), row("broken", File("/nowhere", "1.png"))]
    calls: list[int] = []

    def counted(pictures: Sequence[Part]) -> Tensor:
        calls.append(len(pictures))
        return levels(pictures)

    index = Index(Pool([*rows, *odd]), counted)
    assert calls == [4]
    found = index.nearest(Part("image", BLACK.copy()), 9)
    assert [near.row.id for near in found] == ["d", "c", "a"]
    assert found[0].cosine == pytest.approx(math.cos(20 / 255))
    assert [near.row.id for near in index.nearest(Part("image", BRIGHT), 2)] == ["c", "d"]
    assert [
        near.row.id for near in index.nearest(Part("image", Image.new("RGB", (4, 4), (50, 50, 50))), 1)
    ] == ["c"]
    assert Index(Pool([row("none")]), levels).nearest(Part("image", BLACK), 3) == []
    assert Index(Pool(rows[:1]), levels).nearest(Part("image", BRIGHT), 3) == []


def test_the_same_picture_in_another_file_may_be_left_out() -> None:
    """Saved again with losses it is no longer equal, only much alike."""
    index = Index(Pool([row("own", BLACK), row("copy", ALMOST), row("c", DARK)]), levels)
    near = index.nearest(Part("image", BLACK), 2)
    assert [one.row.id for one in near] == ["copy", "c"]
    assert [one.row.id for one in index.nearest(Part("image", BLACK), 2, 0.999)] == ["c"]
    assert [one.row.id for one in index.nearest(Part("image", BLACK), 2, near[0].cosine)] == ["c"]
    rows = [row("own", BLACK), row("copy", ALMOST, answer="gibberish")]
    (own, _) = made(ReAlign(encoder=None, max_picture_cosine=0.999), Seer({}), rows)
    assert own.counts == {re_align.LONELY: 1}


def test_equal_cosines_stay_in_the_order_of_the_pool() -> None:
    rows = [row(str(size), Image.new("RGB", (size, size))) for size in (3, 6, 5)]
    index = Index(Pool(rows), lambda pictures: torch.ones(len(pictures), 1))
    assert [near.row.id for near in index.nearest(Part("image", BLACK), 3)] == ["3", "6", "5"]


def test_two_tower_models_tell_which_are_alike(tmp_path: Path) -> None:
    encoder = Towers(save_open_clip(tmp_path / "clip")).load("builder.pictures")
    pictures = [noise(1), noise(2).convert("L"), noise(3)]
    found = by_towers(encoder)([Part("image", one) for one in pictures])
    assert not found.requires_grad
    torch.testing.assert_close(
        found, encoder.pictures([one.convert("RGB") for one in pictures]), atol=1e-5, rtol=0
    )
    with pytest.raises(UserError, match="^builder.pictures: path: there is no folder or file ./no"):
        Towers("./no").load("builder.pictures")


# ---------------------------------------------------------------- fillings


class Seer:
    """Stands in for an adapter that sees how bright a picture is, and says what was to be said of that."""

    media = frozenset({"image"})

    def __init__(self, said: dict[int, str]) -> None:
        self.said, self.asked, self.seeds = said, list[tuple[str, int]](), list[int]()

    def picture_vectors(self, model: nn.Module, pictures: Sequence[Part]) -> Tensor:
        """By brightness."""
        return levels(pictures)

    def generate(self, model: nn.Module, prompts: Sequence[Any], seeds: Sequence[int]) -> list[Part]:
        """What is said of the picture, whatever the request."""
        assert len(prompts) == len(seeds) == len(set(seeds))
        return self.complete(model, prompts, [""] * len(prompts), seeds)

    def complete(
        self, model: nn.Module, prompts: Sequence[Any], begun: Sequence[str], seeds: Sequence[int]
    ) -> list[Part]:
        """The same, behind any beginning, which is noted, as are the seeds."""
        self.seeds += seeds
        found = []
        for (turn,), start in zip(prompts, begun, strict=True):
            (picture, question) = turn.parts
            level = picture.data.getpixel((0, 0))[0]
            self.asked.append((f"{question.data}|{start}", level))
            found.append(Part("text", self.said[level]))
        return found


def made(builder: ReAlign, seer: Seer, rows: Sequence[Asked], helper: Any = HELPER) -> list[Remade]:
    adapter: Any = seer
    builder.ready_for(adapter)
    return builder.make(rows, Tools(Pool(rows), adapter, nn.Identity(), helper), 0)


ROWS = [row("own", BLACK), row("c", DARK, answer="gibberish"), row("d", DARKER, answer="gibberish")]


def test_the_first_filling_that_is_not_alike_is_taken() -> None:
    same, other = "a red circle and a blue cross", "a red circle and a green star"
    gap = gaps((Message("user", (Part("text", f"Answer:\n{same}"),)),), 0)
    assert gap is not None and gap.count("[MASK]") == 1
    # the helper's seed is not 0: which of the two is left out is read off the row
    seer = Seer({20: same, 60: "a green star and a green star"})
    remade = made(ReAlign(encoder=None, keep=False), seer, ROWS)
    (new,) = remade[0].rows
    assert new.answers == {
        "chosen": Part("text", same),
        "rejected": Part("text", "a green star and a green star"),
    }
    assert remade[0].counts == {re_align.ALIKE: 1}
    told = new.told
    assert (told["retrieved"], told["try"], new.name) == ("c", 2, "refilled")
    assert told["seeds"] == {"rejected": seer.seeds[1]} and len(set(seer.seeds)) == 2
    assert told["picture_cosine"] == pytest.approx(math.cos(60 / 255), abs=1e-6)
    assert told["cosine"] == pytest.approx(word_cosine(same, "a green star and a green star"), abs=1e-6)
    shown = [turn.parts[0].data for turn in new.prompts["chosen_retrieved"]]
    assert shown[0].getpixel((0, 0)) == (60, 60, 60) and new.prompt == ROWS[0].turns
    assert new.prompts["chosen_retrieved"][0].parts[1] == Part("text", "What is there?")
    assert [level for _, level in seer.asked] == [20, 60]
    request = seer.asked[0][0]
    assert "Question:\nWhat is there?\n" in request and f"Answer:\n{told['masked']}|" in request
    assert remade[1].counts == remade[2].counts == {re_align.UNMASKED: 1}
    # and one that keeps what was kept
    filled = {"[MASK] and a blue cross": "a green star and a blue cross", "a red circle and [MASK]": other}
    kept = filled[told["masked"]]
    (new,) = made(ReAlign(encoder=None), Seer({20: kept}), ROWS)[0].rows
    assert new.answers["rejected"] == Part("text", kept)


def test_pictures_run_out_and_fillings_are_refused() -> None:
    seer = Seer({20: "a fox", 60: "a [MASK] fox"})
    remade = made(ReAlign(encoder=None), seer, ROWS)[0]
    assert (remade.rows, remade.counts) == ((), {re_align.UNFILLED: 2, re_align.GIVEN_UP: 1})
    seer = Seer({20: "a fox", 60: "a cow"})
    remade = made(ReAlign(encoder=None, top_k=1), seer, ROWS)[0]
    assert (remade.rows, remade.counts) == ((), {re_align.UNFILLED: 1, re_align.GIVEN_UP: 1})
    remade = made(ReAlign(encoder=None, keep=False, max_cosine=0.0), seer, ROWS)[0]
    assert remade.counts == {re_align.ALIKE: 2, re_align.GIVEN_UP: 1}  # an "a" in common
    none = Seer({20: "zebras", 60: "zebras"})  # at the bound itself, too
    remade = made(ReAlign(encoder=None, keep=False, max_cosine=0.0), none, ROWS)[0]
    assert remade.counts == {re_align.ALIKE: 2, re_align.GIVEN_UP: 1}


def test_answers_are_gone_on_with_at_every_gap() -> None:
    def half(turns: Any, seed: int) -> str:
        return "[MASK] circle and a [MASK]"

    class Halving(PythonFunction):
        _call = staticmethod(half)  # type: ignore[assignment]

    builder = ReAlign(encoder=None, refill="complete")
    seer = Seer({20: " one big, old fox."})
    remade = made(builder, seer, ROWS, Halving("mmalign.shapes.gaps:gaps"))[0]
    (new,) = remade.rows
    assert new.answers["rejected"] == Part("text", "one big circle and a one big")
    assert seer.asked == [("What is there?|", 20), ("What is there?|one big circle and a", 20)]
    assert len(set(seer.seeds)) == 2
    remade = made(builder, Seer({20: ". ", 60: " "}), ROWS, Halving("mmalign.shapes.gaps:gaps"))[0]
    assert remade.counts == {re_align.UNFILLED: 2, re_align.GIVEN_UP: 1}


def test_rows_that_cannot_be_used_are_counted() -> None:
    rows = [row("none"), row("two", BLACK, DARK), row("own", BLACK)]
    odd = Asked("odd", rows[2].turns, (Part("image", DARK),))
    found = made(ReAlign(encoder=None), Seer({}), [*rows, odd])
    assert [one.counts for one in found] == [
        Counter({re_align.MEDIA: 1}), Counter({re_align.MEDIA: 1}), Counter({re_align.LONELY: 1}),
        Counter({re_align.WORDLESS: 1}),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"top_k": 0}, "builder.top_k: must be 1 or more, got 0"),
        ({"max_cosine": 1.5}, "builder.max_cosine: is a cosine"),
        ({"max_picture_cosine": -1.5}, "builder.max_picture_cosine: is a cosine"),
        ({"refill": "complete", "keep": False}, "builder.keep: refill complete always keeps"),
        ({"pictures": {"paths": "x"}}, "builder.pictures: unknown key paths; did you mean path"),
    ],
)
def test_settings_are_refused_in_one_line(section: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told) as caught:
        build_named(KINDS["builder"], {"name": "re_align", **section}, "builder", allow_code=False)
    assert "\n" not in str(caught.value)


def test_models_and_encoders_that_will_not_do_are_refused() -> None:
    class Blind:
        media = frozenset({"image"})

    adapter: Any = Blind()
    with pytest.raises(UserError, match="builder.pictures: Blind tells nothing of its tower"):
        ReAlign(encoder=None).ready_for(adapter)
    with pytest.raises(UserError, match="builder.refill: Blind goes on with no answer; use ask"):
        ReAlign(encoder=None, refill="complete", pictures=Towers("./no")).ready_for(adapter)
    with pytest.raises(UserError, match="builder.pictures: path: there is no folder"):
        ReAlign(encoder=None, pictures=Towers("./no")).ready_for(adapter)
    adapter.media = frozenset()
    with pytest.raises(UserError, match="model: Blind looks at no pictures"):
        ReAlign().ready_for(adapter)
    seer: Any = Seer({})
    with pytest.raises(UserError, match="builder.encoder: there is no folder ./no"):
        ReAlign(encoder="./no").ready_for(seer)


# ---------------------------------------------------------------- a whole build


def test_the_shipped_config_builds_rows_that_train(tmp_path: Path) -> None:
    model = f"model.path={ROOT}/mmalign/shapes/models/vlm"
    few = [model, "num_prompts=6", "batch=4", "log.progress=false", f"output={tmp_path}/out"]
    output = build(_config.load(ROOT / "configs/build/re_align.yaml", few), ALONE)
    rows = [json.loads(line) for line in (output / "pairs.jsonl").read_text().splitlines()]
    record = json.loads((output / "build.json").read_text())
    assert record["kept"]["pairs"] == len(rows) >= 4
    samples = load(Jsonl(path=str(output / "pairs.jsonl"))).samples
    for sample, written in zip(samples, rows, strict=True):
        found = {role: examples[0] for role, examples in decode(sample, None).examples.items()}
        own, near = (found[role].prompt[0].parts[0].data for role in ("chosen", "chosen_retrieved"))
        assert own.size == near.size == (48, 48) and own.tobytes() != near.tobytes()
        assert found["chosen_retrieved"].response == found["chosen"].response != found["rejected"].response
        assert -1 < written["built"]["cosine"] < 0.95 and "[MASK]" in written["built"]["masked"]
    trained = run(
        configs.load(
            ROOT / "configs/objectives/vlm/re_align.yaml",
            [model, f"data={{source: jsonl, path: {output}/pairs.jsonl}}", "heldout=null", "evaluation=null",
             f"output={tmp_path}/trained", "train.steps=2", "train.batch=2", "train.warmup_steps=0",
             "log={every: 1, progress: false}"],
        )
    )  # fmt: skip
    first, second = losses(trained)
    assert first == pytest.approx(2 * math.log(2), abs=1e-4) and second < first
