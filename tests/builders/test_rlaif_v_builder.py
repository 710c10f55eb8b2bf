"""RLAIF-V: answers sampled, divided, asked about, scored and paired; every reason counted."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.builds import content
from builders.knowing import ASKED
from PIL import Image
from training.faults import ALONE

import mmalign
from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.builders import _config, rlaif_v
from mmalign.builders._candidates import EMPTY, EQUAL, TOO_FEW, Asked
from mmalign.builders._run import build
from mmalign.builders._whole_rows import Pool, Remade, Tools
from mmalign.builders.rlaif_v import RlaifV
from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.shapes.claims import claims
from mmalign.shapes.judges import CaptionJudge
from mmalign.types import Message, Part, UserError
from mmalign.writers.local import Local
from mmalign.writers.python_function import PythonFunction

ROOT = Path(mmalign.__file__).parent.parent
PICTURE = Image.new("RGB", (4, 4), "red")
TURNS = (Message("user", (Part("image", PICTURE), Part("text", "What is there?"))),)
HELPER = PythonFunction("mmalign.shapes.claims:claims")


class Saying:
    """Stands in for an adapter that answers in words: what it says is decided by the prompt and the place."""

    offers = frozenset({"distribution"})

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = answers

    def generate(self, model: Any, prompts: Sequence[Any], seeds: Sequence[int]) -> list[Part]:
        """The answers to every prompt in turn."""
        assert len(set(seeds)) == len(seeds) == len(prompts)
        return [Part("text", one) for own in self.answers for one in own]


def made(builder: RlaifV, *answers: Sequence[str], helper: Any = HELPER, seed: int = 0) -> list[Remade]:
    rows = [Asked(f"p{number}", TURNS) for number in range(len(answers))]
    adapter: Any = Saying(*answers)
    builder.ready_for(adapter)
    tools = Tools(Pool(rows), adapter, torch.nn.Identity(), helper)
    return builder.make(rows, tools, seed)


def knowing(**settings: Any) -> RlaifV:
    section = {"name": "builders.knowing:Knowing"}
    return RlaifV(**{"n": 2, "labeller": section, **settings})


def test_the_answer_with_fewer_false_claims_is_chosen() -> None:
    ((remade,),) = [
        made(knowing(), ["a red circle, a blue cross and a red star", "a red circle and a blue cross"])
    ]
    (row,) = remade.rows
    assert remade.counts == Counter()
    texts = {role: part.data for role, part in row.answers.items() if isinstance(part, Part)}
    assert texts == {
        "chosen": "a red circle and a blue cross",
        "rejected": "a red circle, a blue cross and a red star",
    }
    assert row.columns == {"chosen_score": 0, "rejected_score": -1, "margin": 1}
    assert row.prompt == TURNS and row.name == "1-0"
    facts = row.told["claims"]["rejected"]
    assert [fact["claim"] for fact in facts] == [
        "There is a red circle.", "There is a blue cross.", "There is a red star."
    ]  # fmt: skip
    assert [fact["true"] for fact in facts] == [True, True, False]
    assert facts[2]["question"] == "Is there a red star?"
    assert (facts[0]["yes"], facts[0]["no"]) == pytest.approx((0.4, 0.35))
    assert row.told["scores"] == [-1, 0] and len(set(row.told["seeds"])) == 2


def test_a_question_is_asked_once_under_the_media_of_the_prompt() -> None:
    both = ["a red circle and a red star", "a red circle and a blue cross"]
    made(knowing(ask="Say yes or no: {question}"), both, both)
    assert [turns[0].parts[-1].data for turns in ASKED] == [
        f"Say yes or no: Is there {one}?" for one in ("a red circle", "a red star", "a blue cross")
    ] * 2
    assert all(turns[0].parts[0].data is PICTURE and len(turns[0].parts) == 2 for turns in ASKED)


def test_what_cannot_be_scored_is_left_out_and_counted() -> None:
    def helper(turns: tuple[Message, ...], seed: int) -> str | None:
        text = turns[0].parts[0].data
        if text.endswith("Answer:\nnothing"):
            return "NONE"
        if "a blue cross." in text:
            return "1. What is there?"
        return claims(turns, seed)

    class Odd(PythonFunction):
        _call = staticmethod(helper)  # type: ignore[assignment]

    answers = [
        "nothing",
        "yes",
        "a blue cross",
        "a red circle",
        "a red circle",
        " ",
        "a red star",
        "a green star",
    ]
    (remade,) = made(knowing(n=8), answers, helper=Odd("mmalign.shapes.claims:claims"))
    assert [(row.name, row.told["scores"]) for row in remade.rows] == [
        ("3-4", [None, None, None, 0, -1, 0]),
        ("5-4", [None, None, None, 0, -1, 0]),
    ]
    assert remade.counts == {
        EQUAL: 1, EMPTY: 1, rlaif_v.SILENT: 1, rlaif_v.UNREAD: 1, rlaif_v.UNASKED: 1
    }  # fmt: skip


def test_prompts_without_a_pair_are_counted() -> None:
    even, equal, far = ["a red circle", "a blue cross"], ["a red circle"] * 2, ["a red circle", "a red star"]
    alike, same, apart = made(knowing(), even, equal, far)
    assert (alike.rows, alike.counts) == ((), {rlaif_v.CLOSE: 1})
    assert (same.rows, same.counts) == ((), {TOO_FEW: 1, EQUAL: 1})
    assert len(apart.rows) == 1
    (apart,) = made(knowing(min_gap=2), far)
    assert (apart.rows, apart.counts) == ((), {rlaif_v.CLOSE: 1})


def test_a_few_pairs_are_drawn_by_seed_and_row() -> None:
    answers = ["a red circle", "a red star", "a red star and a red cross", "a green star"]
    drawn = {tuple(row.name for row in made(knowing(n=4), answers, seed=seed)[0].rows) for seed in range(8)}
    assert len(drawn) > 2 and all(len(names) == 2 for names in drawn)
    (remade,) = made(knowing(n=4), answers)
    assert remade.counts == {rlaif_v.SPARE: 3}
    several = made(knowing(n=4), *[answers] * 6)
    assert several[0].rows == remade.rows
    assert len({tuple(row.name for row in one.rows) for one in several}) > 1


def test_chances_of_all_words_count_together() -> None:
    # 0.3 and 0.01 for yes, 0.35 for no: each way of writing yes is likelier than none
    (remade,) = made(
        knowing(labeller={"name": "builders.knowing:Knowing", "sure": 0.31}), ["a red circle", "a"]
    )
    assert remade.rows == ()
    (row,) = made(knowing(), ["a red circle", "a red star"])[0].rows
    assert row.told["claims"]["chosen"][0]["true"] is True


def test_long_rejected_answers_go_at_the_end() -> None:
    def row(name: str, chosen: int, rejected: int) -> dict[str, str]:
        return {"id": name, "chosen": "a " * chosen, "rejected": "a " * rejected}

    rows = [row("0", 10, 10), row("1", 9, 10), row("2", 5, 10), row("3", 12, 10)]
    out = RlaifV().sift(iter(rows))
    assert out == {"2": "pairs whose rejected answer is longer by more than 0.48 of it"}
    assert replace(RlaifV(), debias=False).sift(iter(rows)) == {}


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"n": 1}, "builder.n: must be 2 or more, got 1"),
        ({"min_gap": 0}, "builder.min_gap: must be 1 or more, got 0"),
        ({"most": 0}, "builder.most: must be 1 or more, got 0"),
        ({"ask": "Yes?"}, "builder.ask: must hold {question} once"),
        ({"no": []}, "builder.yes: name at least one word each"),
        ({"labeller": {"name": "locals"}}, "labeller.name: no writer is called 'locals'; did you mean local"),
        ({"labeller": {"name": "x.y:Z"}}, "builder.labeller: x.y:Z would import code from outside"),
    ],
)
def test_settings_are_refused_in_one_line(section: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told.replace("{", r"\{")) as caught:
        build_named(KINDS["builder"], {"name": "rlaif_v", **section}, "builder", allow_code=False)
    assert "\n" not in str(caught.value)


def test_labellers_without_chances_are_refused() -> None:
    adapter: Any = Saying()
    named = RlaifV(labeller={"name": "python_function", "function": "mmalign.shapes.claims:claims"})
    with pytest.raises(UserError, match="builder.labeller: PythonFunction tells no chances"):
        named.ready_for(adapter)
    adapter.offers = frozenset({"ratio"})
    with pytest.raises(UserError, match="builder.labeller: Saying tells no chances of words; name a writer"):
        RlaifV().ready_for(adapter)
    knowing().ready_for(adapter)  # the model's own chances are not asked


# ---------------------------------------------------------------- a whole build


def test_the_shipped_config_builds_pairs_of_the_built_in_model(tmp_path: Path) -> None:
    config = _config.load(
        ROOT / "configs/build/rlaif_v.yaml",
        [f"model.path={ROOT}/mmalign/shapes/models/vlm", "num_prompts=8", "builder.n=5",
         "log.progress=false", f"output={tmp_path}/out"],
    )  # fmt: skip
    output = build(config, ALONE)
    record = json.loads((output / "build.json").read_text())
    rows = [json.loads(line) for line in (output / "pairs.jsonl").read_text().splitlines()]
    assert record["kept"]["pairs"] == len(rows) >= 1
    dropped = [name for name in record["left_out"] if "is longer by more than" in name]
    assert len(dropped) == 1
    files = {name for name in content(output) if name.startswith("media/")}
    assert files == {row["prompt"][0]["content"][0]["image"] for row in rows}
    samples = load(Jsonl(path=str(output / "pairs.jsonl"))).samples
    writer = Local({"adapter": "vlm", "path": f"{ROOT}/mmalign/shapes/models/vlm"})
    for sample, row in zip(samples, rows, strict=True):
        found = decode(sample, None).examples
        (chosen,), (rejected,) = found["chosen"], found["rejected"]
        worse, better = (CaptionJudge().score(one.prompt, one.response[0]) for one in (rejected, chosen))
        assert better["recall"] >= 0 and worse["recall"] >= 0  # both are captions of this picture
        for fact in row["built"]["claims"]["rejected"][:1]:
            question = (Message("user", (chosen.prompt[0].parts[0], Part("text", fact["question"]))),)
            ((yes, no),) = writer.chances([question], ["yes", "no"])
            assert (fact["yes"], fact["no"]) == pytest.approx((yes, no), abs=1e-3)
