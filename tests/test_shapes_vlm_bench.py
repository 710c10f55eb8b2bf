"""The benchmark on the built-in model of pictures: its questions, its controls, its plan and its tables."""

import json
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "scripts" / "bench"))

import _several  # noqa: E402
import _several_base  # noqa: E402
import _vlm_asked  # noqa: E402
import _vlm_runs  # noqa: E402
import _vlm_table  # noqa: E402
import shapes_vlm  # noqa: E402
from _exchanged import ExchangedPairs  # noqa: E402

from mmalign.adapters.vlm import Vlm  # noqa: E402
from mmalign.builders import mia_dpo  # noqa: E402
from mmalign.builders._drift import Limits  # noqa: E402
from mmalign.shapes.judge_sight import read_picture  # noqa: E402
from mmalign.shapes.judges import CaptionJudge  # noqa: E402
from mmalign.shapes.sight_text import parse_question  # noqa: E402
from mmalign.shapes.sights import render_sight, sample_sight  # noqa: E402
from mmalign.shapes.sources import CaptionPairs  # noqa: E402
from mmalign.shapes.tiny_qwen_vl import VLM_FOLDER, load_vlm  # noqa: E402
from mmalign.types import Attended, Message, Part  # noqa: E402


def pictures_of(prompt: tuple[Message, ...]) -> list[Any]:
    return [part.data for turn in prompt for part in turn.parts if part.kind == "image"]


def words_of(prompt: tuple[Message, ...]) -> str:
    return "".join(part.data for turn in prompt for part in turn.parts if part.kind == "text")


def test_what_is_asked_for_among_several_pictures_is_always_in_one_of_them() -> None:
    listed = _vlm_asked.among_several("heldout", 60)["several "]
    answers = []
    for place, one in enumerate(listed):
        pictures, (target,) = pictures_of(one.prompt), pictures_of(one.judged)
        assert len(pictures) == (2, 3, 4)[place % 3]
        number = next(i for i, picture in enumerate(pictures, 1) if picture is target)
        assert f"In Image{number}, is there " in words_of(one.prompt)
        thing = parse_question(words_of(one.judged))
        holders = [picture for picture in pictures if thing in [seen.thing for seen in read_picture(picture)]]
        assert holders
        answers.append(target in holders)
        said = Part("text", "yes" if answers[-1] else "no")
        assert CaptionJudge().score(one.judged, said)["presence"] == 1.0
    assert 20 < sum(answers) < 40


def test_only_the_picture_tells_the_wrong_caption_from_the_right_one() -> None:
    for prompt, right, wrong in _vlm_asked.right_and_wrong("heldout", 40):
        assert len(right.split()) == len(wrong.split())
        told = [CaptionJudge().score(prompt, Part("text", text)) for text in (right, wrong)]
        assert told[0]["exact"] == 1.0 and told[1]["hallucinates"] == 1.0


def test_exchanged_pairs_keep_their_words_and_lose_their_pictures() -> None:
    for own, other in zip(CaptionPairs().samples(), ExchangedPairs().samples(), strict=True):
        for role in ("chosen", "rejected"):
            (first,), (second,) = own.examples[role], other.examples[role]
            assert first.response == second.response
            assert words_of(first.prompt) == words_of(second.prompt)
            assert list(pictures_of(first.prompt)[0].getdata()) != list(
                pictures_of(second.prompt)[0].getdata()
            )


def test_a_wrong_number_is_that_of_another_picture() -> None:
    turn = {"role": "user", "content": [{"type": "text", "text": "\nIn Image2, is there a red star?"}]}
    row = {"id": "a", "prompt": [turn], "chosen": "yes", "rejected": "no"}
    wrong = _several._with_wrong_number({**row, "built": {"pictures": 2, "target": 2}})
    assert wrong["prompt"][0]["content"][0]["text"] == "\nIn Image1, is there a red star?"
    assert (wrong["chosen"], wrong["rejected"]) == ("yes", "no")


def pair(name: str, chosen: str, share: float, **more: Any) -> dict[str, Any]:
    rejected = "no" if chosen == "yes" else "yes"
    told = {"pictures": 2, "target": 1, "share": share, **more}
    return {"id": name, "chosen": chosen, "rejected": rejected, "built": told}


def test_pairs_are_balanced_after_those_that_looked_are_gone(tmp_path: Path) -> None:
    rows = [pair(f"n{at}", "no", 0.1 * at) for at in range(1, 9)]
    rows += [pair(f"y{at}", "yes", 0.3 * at) for at in range(1, 4)]
    folder = tmp_path / "mia-taught-questions"
    folder.mkdir()
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    even, drifted = (
        _several._read(_several.built_pairs("taught", built, tmp_path / "heldout"))
        for built in ("even", "even, drifted")
    )
    assert [row["chosen"] for row in even] == ["yes", "no"] * 3
    assert len(drifted) == 2 and drifted[0]["id"] == "y1"  # 0.3; below 1/2 is only one yes
    assert drifted[1]["id"] in {"n1", "n2", "n3", "n4"}


def test_a_thing_is_elsewhere_if_a_picture_beside_the_target_shows_it(tmp_path: Path) -> None:
    sights = [sample_sight("training", 7, number) for number in range(2)]
    content: list[dict[str, str]] = []
    for place, sight in enumerate(sights):
        render_sight(sight).save(tmp_path / f"{place}.png")
        content += [{"type": "image", "image": f"{place}.png"}]
    only = next(thing for thing in sights[1].things if thing not in sights[0].things)
    text = {"type": "text", "text": f"\nIn Image1, is there {only.phrase}?"}
    row = {"prompt": [{"content": [*content, text]}], "built": {"target": 1}}
    assert _several._is_elsewhere(row, tmp_path)
    there = {"type": "text", "text": f"\nIn Image2, is there {only.phrase}?"}
    assert not _several._is_elsewhere(
        {"prompt": [{"content": [*content, there]}], "built": {"target": 2}}, tmp_path
    )


def test_the_other_answer_is_rejected_whatever_the_model_says() -> None:
    builder = _several.BothAnswers(layouts=("sequence",), sequence=Limits((2,), (1.0,)), min_perplexity=1.0)
    question = mia_dpo._Question("sequence", 2, 0, (), (), "yes")
    maps = (torch.full((4,), 0.9), torch.full((4,), 0.1))
    for said in ("yes", "no"):
        found = Attended(Part("text", said), torch.tensor([0.9]), maps, (None, None))
        (made,) = builder._selected(question, found).rows
        assert made.answers == {"chosen": Part("text", "yes"), "rejected": Part("text", "no")}
        assert made.told["said"] == said and made.told["share"] == 0.9


def test_attention_is_compared_between_right_and_wrong_answers(tmp_path: Path) -> None:
    rows = [
        pair(f"{count}{at}", "yes", share, said=said) | {"built": {**base, "pictures": count}}
        for count in (2, 3, 4)
        for at, (share, said) in enumerate([(0.9, "yes"), (0.4, "yes"), (0.5, "no")])
        for base in ({"share": share, "said": said},)
    ]
    folder = tmp_path / "mia-taught-any"
    folder.mkdir()
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = _several.attention("taught", tmp_path / "heldout")
    assert told["2"] == {
        "questions": 3, "wrong": 1, "share of right": 0.65, "share of wrong": 0.5, "larger": 0.5, "above": 1,
    }  # fmt: skip
    assert "| 2 | 3 | 1 | 65.0% | 50.0% | 50.0% | 1 |" in _vlm_table.looked(told)


def test_the_taught_model_learns_what_the_adapter_scores() -> None:
    """Its rows of several pictures and questions give the likelihoods of the library's own forward."""
    rng = random.Random(0)
    sights = [sample_sight("training", 7, number) for number in range(3)]
    turns = [_several_base.turn_on(sights, _several_base.LESSONS[0], rng) for _ in range(4)]
    adapter = Vlm(path=str(VLM_FOLDER)).build(torch.device("cpu"), torch.float32)
    model, processor = load_vlm()
    batch = _several_base.batch_of(processor.tokenizer, [sights], [turns])
    learner = _several_base.SeveralLearner(model).eval()
    learner.pictures = 3
    with torch.no_grad():
        states = learner.hidden(learner.features(batch), batch)
        logps = model.lm_head(states[:, :-1]).log_softmax(-1)
        labels, segments = batch.labels[0, 1:], batch.segments[0, 1:]
        ours = [
            float(logps[0].gather(1, labels.clamp(min=0)[:, None])[(segments == n) & (labels != -100)].sum())
            for n in range(1, 5)
        ]
        prompts = [_several_base.prompt_of(sights, question.text) for question, _ in turns]
        theirs = _vlm_asked._log_likelihoods(adapter, adapter.policy, prompts, [a for _, a in turns])
    assert ours == pytest.approx(theirs, abs=2e-4)


# ---------------------------------------------------------------- plan and tables


def cell(name: str, seed: int, wrong: list[float], **more: Any) -> dict[str, Any]:
    flat = {key: [1.0] * len(wrong) for key in ("caption recall", "caption exact", "presence")}
    nats = {"margin with": [5.0] * len(wrong), "margin without": [1.0 + seed] * len(wrong)}
    rest = {"caption words": [8] * len(wrong), "right": [-1.5] * len(wrong)}
    found = {"run": name, "seed": seed, "split": "heldout", "lr": 5e-4, "caption hallucinates": wrong}
    return {**found, **flat, **nats, **rest, "steps": 80, "batch": 16, "cpu_seconds": 20.4, **more}


def test_tables_count_by_prompt_and_compare_seed_by_seed() -> None:
    cells = [cell("base", 0, [1, 1, 0, 0], lr=None)]
    cells += [cell("dpo", seed, [1, 0, 0, 0]) for seed in (0, 1)]
    cells += [cell("mdpo", seed, [0, 0, 0, seed]) for seed in (0, 1)]
    rows = {line.split(" |")[0][2:]: line for line in _vlm_table.table(cells, _vlm_runs.ARMS).splitlines()}
    assert rows["base"].startswith("| base |  | 50.0% [")
    assert rows["mdpo"].startswith("| mdpo | 0.0005 | 12.5% [") and "(0/25)" in rows["mdpo"]
    assert "| 8.0 | 5.0 [5.0, 5.0] | 1.5 [1.0, 2.0] | 3.5 [3.0, 4.0] | -1.50 | 20 |" in rows["mdpo"]
    last = _vlm_table.against(cells, _vlm_runs.ARMS, "dpo").splitlines()[-1]
    assert last.startswith("| mdpo | -12.5 [") and last.endswith("| +0.00 [+0.00, +0.00] |")


def test_among_several_the_change_is_from_what_the_run_started_from() -> None:
    def asked(name: str, lr: float | None, values: list[float]) -> dict[str, Any]:
        keys = [key for key in _vlm_table.AMONG if key != "several presence"]
        more: Mapping[str, Any] = {key: [1.0] * 6 for key in keys}
        return {"run": name, "seed": 0, "split": "heldout", "lr": lr, "several presence": values, **more}

    cells = [asked("several: taught", None, [1, 0, 0, 1, 0, 0])]
    cells += [asked("several: built-in", None, [0] * 6)]
    cells += [asked("several: mia_dpo", 1e-4, [1, 1, 0, 1, 1, 0])]
    cells[0]["leaning"], cells[2]["leaning"] = [3.0, -1.0, -1.0, 3.0, -1.0, -1.0], [2.0] * 6
    lines = _vlm_table.among(cells, _vlm_runs.ARMS).splitlines()
    assert [line.split(" |")[0] for line in lines[2:]] == ["| taught", "| mia_dpo"]
    assert lines[2].endswith("| +3.00 | -1.00 |")
    assert "| 100% | 100% | 0% | +33.3 [" in lines[3]
    assert lines[3].endswith("| -1.00 [-1.00, -1.00] | +3.00 [+3.00, +3.00] |")


def test_the_rate_is_the_lowest_of_the_best_on_validation_scenes(tmp_path: Path) -> None:
    bench = shapes_vlm.Bench(tmp_path / "cells.jsonl", tmp_path)
    (dpo,) = (arm for arm in _vlm_runs.ARMS if arm.name == "dpo")
    assert bench.rate(dpo) is None
    for rate, right in ((1e-3, 0.5), (5e-4, 1.0), (1e-4, 1.0)):
        bench.write({"run": "dpo", "seed": 0, "split": "validation", "lr": rate} | scored(right))
    assert bench.rate(dpo) == 1e-4
    again = shapes_vlm.Bench(tmp_path / "cells.jsonl", tmp_path)
    (shuffled,) = (arm for arm in _vlm_runs.ARMS if arm.name == "dpo, labels shuffled")
    assert again.rate(shuffled) == 1e-4 and again.found("validation", "dpo", 0, 5e-4) is not None


def scored(right: float) -> dict[str, Any]:
    return {"caption score": [right], "presence": [1.0]}


def test_first_seeds_come_first_and_all_configs_are_there() -> None:
    planned = list(shapes_vlm.order(_vlm_runs.ARMS))
    assert [seed for _, seed in planned] == sorted(seed for _, seed in planned)
    assert len(planned) == sum(arm.seeds for arm in _vlm_runs.ARMS)
    names = {arm.name for arm in _vlm_runs.ARMS}
    for arm in _vlm_runs.ARMS:
        assert (_vlm_runs.CONFIGS / f"{arm.config}.yaml").is_file() and (arm.rate_of or arm.name) in names
        assert arm.several or (arm.built is None and arm.start == "built-in")
