"""Objectives on what a model sees, in whole runs: where they start, what must not change them, refusals."""

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import Bench, add_vision, largest_gap, losses, metrics, weights

from mmalign.training.reference import ReferenceCache
from mmalign.training.run import run
from mmalign.types import LogProbs, Prepared, Row, UserError

LN2 = math.log(2)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("bench"))
    add_vision(bench)
    yield bench
    torch.set_num_threads(threads)


def train(bench: Bench, output: str, objective: dict[str, Any], **sections: Any) -> Path:
    """A short LoRA run on pairs about pictures."""
    settings = {"lora": {"rank": 4}, "data": {"heldout": 3}, **sections}
    if isinstance(objective, dict) and objective["name"] == "re_align":
        settings["data"] = {"heldout": 1, "path": str(with_retrieved(bench))}
    settings["train"] = {"steps": 2, **sections.get("train", {})}
    return run(bench.config("seeing", output, objective=objective, **settings))


def with_retrieved(bench: Bench) -> Path:
    """The rows that have one picture or two for both sides, with others beside them that were retrieved."""
    source = Path(bench.data["seeing"]["path"])
    rows = [json.loads(line) for line in source.read_text().splitlines()]
    target = source.with_name("retrieved.jsonl")
    lines = []
    for row in rows:
        parts = [part for turn in row.get("prompt", ()) for part in turn["content"]]
        pictures = [part.pop("image") for part in parts if part["type"] == "image"]
        if pictures:
            other = [f"{(int(name[0]) + 3) % 6}.png" for name in pictures]
            lines.append(json.dumps({**row, "images": pictures, "retrieved_images": other}))
    target.write_text("\n".join(lines) + "\n")
    return target


# ln 2 for every term whose two sides agree before the first step
STARTS: dict[str, tuple[dict[str, Any], float]] = {
    "vdpo-plain": ({"name": "vdpo", "guidance": 1.0}, LN2),
    "povid": ({"name": "povid"}, LN2),
    "povid-own": ({"name": "povid", "reference_argmax": "own"}, LN2),
    "povid-single": ({"name": "povid", "form": "single"}, LN2),
    "chip": ({"name": "chip"}, LN2),
    "chip-sum": ({"name": "chip", "combine": "sum"}, 3 * LN2),
    "re-align": ({"name": "re_align"}, 2 * LN2),
    "vdpo-visual": ({"name": "vdpo", "guidance": 1.0, "visual_weight": 0.5}, 1.5 * LN2),
}


@pytest.mark.parametrize("name", STARTS)
def test_terms_that_compare_with_the_reference_start_at_ln_2(bench: Bench, name: str) -> None:
    objective, expected = STARTS[name]
    found = losses(train(bench, f"start-{name}", objective))
    assert found[0] == pytest.approx(expected, abs=1e-5)
    assert found[1] != found[0] and math.isfinite(found[1])


OBJECTIVES: dict[str, dict[str, Any]] = {
    "vdpo": {"name": "vdpo", "visual_weight": 0.5},
    "vdpo-reference": {"name": "vdpo", "unguided": "reference", "picture": "other_image"},
    "vdpo-logits": {"name": "vdpo", "use_logits": True, "picture": "black"},
    "povid": {"name": "povid"},
    "povid-single": {"name": "povid", "form": "single", "corruption": "crop"},
    "chip": {"name": "chip", "beta": 1.0},
    "re-align": {"name": "re_align"},
    "re-align-competitors": {"name": "re_align", "variant": "top_competitor"},
}
WHOLE = ("vdpo-logits", "povid", "povid-single", "chip", "re-align-competitors")
"""Those that read whole distributions."""


@pytest.mark.parametrize("name", OBJECTIVES)
def test_micro_batches_change_nothing(bench: Bench, name: str) -> None:
    """Other neighbours, other padding; rows of a micro-batch stand in another order."""
    plain = train(bench, f"{name}-plain", OBJECTIVES[name])
    small = train(bench, f"{name}-small", OBJECTIVES[name], train={"micro_batch": 1})
    assert losses(small) == pytest.approx(losses(plain), abs=1e-5)
    assert largest_gap(weights(small, 2), weights(plain, 2)) < 2e-5
    assert [line for line in metrics(plain) if "heldout/loss" in line]


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_cached_reference_gives_the_same_run_or_is_refused(bench: Bench, name: str) -> None:
    cached = {"reference": {"name": "cached"}, "views": {"redraw": "once"}}
    if name in WHOLE:
        with pytest.raises(UserError, match="^reference.name=cached: keeps scores, and this run needs whole"):
            train(bench, f"{name}-cached", OBJECTIVES[name], **cached)
        return
    live = train(bench, f"{name}-live", OBJECTIVES[name], views={"redraw": "once"})
    kept = train(bench, f"{name}-cached", OBJECTIVES[name], **cached)
    assert losses(kept) == pytest.approx(losses(live), abs=1e-5)


@pytest.mark.parametrize(("name", "lora"), [("chip", {"rank": 4}), ("povid", None), ("vdpo-logits", None)])
def test_half_precision_gives_nearly_the_same_losses(
    bench: Bench, name: str, lora: dict[str, Any] | None
) -> None:
    """Heads run outside autocast again; hidden states and weights may then be of two types."""
    slow = {"lr": 5e-4}  # the second loss has what one step made of the first one's rounding
    full = train(bench, f"{name}-fp32-{bool(lora)}", OBJECTIVES[name], lora=lora, train=slow)
    half = train(
        bench, f"{name}-bf16-{bool(lora)}", OBJECTIVES[name], lora=lora, train=slow | {"precision": "bf16"}
    )
    assert losses(half) == pytest.approx(losses(full), rel=0.1, abs=0.1)


# whose losses hang on the reference's distributions
HANGING: dict[str, dict[str, Any]] = {
    "chip": {"name": "chip", "alpha": 1000.0},
    "povid": {"name": "povid"},
    "vdpo": {"name": "vdpo", "use_logits": True, "unguided": "reference"},
}


@pytest.mark.parametrize("name", HANGING)
def test_a_reference_that_borrows_the_policys_head_scores_as_one_with_its_own(
    bench: Bench, name: str
) -> None:
    """A moving reference that stands still is the policy with its first weights put back, head included."""
    given: dict[str, Any] = {"lora": None, "train": {"steps": 3}}
    own = train(bench, f"{name}-copy", HANGING[name], **given)
    still = {"name": "ema", "decay": 0.999999999}
    lent = train(bench, f"{name}-still", HANGING[name], reference=still, **given)
    assert losses(lent) == pytest.approx(losses(own), abs=1e-5)
    assert losses(own)[2] != losses(own)[0]


def test_lora_on_the_head_is_off_where_the_reference_scores(bench: Bench) -> None:
    """The base by its folder and the policy with its adapters off are one reference."""
    given: dict[str, Any] = {"lora": {"rank": 4, "targets": ["q_proj", "lm_head"]}, "train": {"steps": 3}}
    off = train(bench, "head-off", HANGING["chip"], **given)
    path = {"name": "path", "path": bench.model["seeing"]["path"]}
    base = train(bench, "head-path", HANGING["chip"], reference=path, **given)
    assert losses(off) == pytest.approx(losses(base), abs=1e-5)


@pytest.mark.parametrize("transform", ["segment_weights", "length_desensitized"])
def test_weights_of_tokens_do_not_reach_distributions(bench: Bench, transform: str) -> None:
    with pytest.raises(
        UserError, match=f"^transforms: {transform} changes scores of tokens, but not the dist"
    ):
        train(bench, "refused", OBJECTIVES[WHOLE[0]], transforms=[{"name": transform}])


def test_distributions_are_not_kept_over_a_coupled_step(bench: Bench) -> None:
    coupled = [OBJECTIVES[WHOLE[0]], {"name": "dpo", "target_gradient": 0.2}]
    with pytest.raises(UserError, match="^objective: one part needs whole next-token distributions"):
        train(bench, "coupled", coupled)  # type: ignore[arg-type]


def test_segment_weights_before_mdpo(bench: Bench) -> None:
    """Three terms at ln 2: weights do not move log-ratios of 0."""
    found = train(bench, "segments", {"name": "mdpo"}, transforms=[{"name": "segment_weights"}])
    assert losses(found)[0] == pytest.approx(3 * LN2, abs=1e-5)
    shares = [line["changed_share"] for line in metrics(found) if "changed_share" in line]
    assert shares and all(0 < share <= 1 for share in shares)


def test_a_kept_answer_of_another_length_is_refused() -> None:
    """Of a view that the policy does not score, only the cache knows how long its answer is."""
    sample = Prepared("a", (Row("view", 0, {"ids": torch.arange(3)}),))
    none = torch.zeros(1, dtype=torch.long)
    scored = LogProbs(torch.zeros(1, 2), torch.ones(1, 2, dtype=torch.bool), "exact", "token", none, none)
    cache = ReferenceCache(None, "model")
    cache.store(sample, "view", 0, None, scored)
    like = replace(scored, ids=torch.tensor([[4, 5]]))
    assert cache.load([sample], "view", [None], like).values.shape == (1, 2)
    with pytest.raises(UserError, match="^reference.name=cached: answers of view are cut to another length"):
        cache.load([sample], "view", [None], replace(like, ids=torch.tensor([[4, -1]])))
