"""A trained reward model as a judge: batches, folders it takes and refuses, and a whole comparison by it."""

import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from adapters import tiny_lm

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.adapters._score_head import Head
from mmalign.adapters.reward_head import RewardHead
from mmalign.evaluation.compare import Comparison, compare
from mmalign.rewards._batch import BatchJudge
from mmalign.rewards.reward_model import RewardModel
from mmalign.types import Message, Part, UserError

PROMPTS = [
    tiny_lm.plain("why is"),
    tiny_lm.chat(("user", "is the box red?")),
    tiny_lm.plain("the small red fox"),
]
ANSWERS = [Part("text", text) for text in (" perhaps", "no, it is blue and the girl ran home", " ran")]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved reward model with two aspects."""
    root = tmp_path_factory.mktemp("judge")
    backbone = {"adapter": "text", "path": tiny_lm.save_tiny(root / "lm")}
    adapter = RewardHead(backbone, Head(init="fresh"), ("help", "harm")).build(torch.device("cpu"))
    adapter.save(adapter.policy, root / "rm", None)
    return root / "rm"


def close(ours: Sequence[Mapping[str, float]], theirs: Sequence[Mapping[str, float]]) -> bool:
    return all(
        a.keys() == b.keys() and all(math.isclose(a[k], b[k], abs_tol=1e-6) for k in a)
        for a, b in zip(ours, theirs, strict=True)
    )


def test_every_aspect_and_their_mean(model: Path) -> None:
    for scores in RewardModel(str(model)).score_many(PROMPTS, ANSWERS):
        assert set(scores) == {"help", "harm", "score"}
        assert scores["score"] == pytest.approx((scores["help"] + scores["harm"]) / 2, abs=1e-6)


def test_batches_and_order_do_not_matter(model: Path) -> None:
    whole = RewardModel(str(model), batch=3).score_many(PROMPTS, ANSWERS)
    assert len({scores["score"] for scores in whole}) == 3
    assert close(RewardModel(str(model), batch=2).score_many(PROMPTS, ANSWERS), whole)
    assert close(RewardModel(str(model)).score_many(PROMPTS[::-1], ANSWERS[::-1]), whole[::-1])
    judge = RewardModel(str(model))
    assert close([judge.score(p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)], whole)
    assert judge.score_many([], []) == []


def test_scores_are_read_without_a_graph(model: Path) -> None:
    judge = RewardModel(str(model))
    judge.ready()
    assert not any(p.requires_grad for p in judge._adapter.policy.parameters())
    assert all(isinstance(v, float) for v in judge.score(PROMPTS[0], ANSWERS[0]).values())


def test_the_name_builds_it_from_a_section() -> None:
    built = build_named(KINDS["judge"], {"name": "reward_model", "path": "x", "batch": 4}, "judge", False)
    assert built == RewardModel("x", 4)
    with pytest.raises(UserError, match="judge.path: must name a folder"):
        build_named(KINDS["judge"], {"name": "reward_model", "path": " "}, "judge", False)
    with pytest.raises(UserError, match="judge.batch: must be above 0, got 0"):
        build_named(KINDS["judge"], {"name": "reward_model", "path": "x", "batch": 0}, "judge", False)


def test_folders_without_a_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reward_model: path: there is no folder"):
        RewardModel(str(tmp_path / "nowhere")).ready()
    with pytest.raises(UserError, match="holds no reward model"):
        RewardModel(str(tmp_path)).ready()
    (tmp_path / "config.yaml").write_text("model: {}\n")
    with pytest.raises(UserError, match="has no final/ yet"):
        RewardModel(str(tmp_path)).ready()


def test_what_it_cannot_read_is_refused(model: Path) -> None:
    judge = RewardModel(str(model))
    long = [ANSWERS[0], Part("text", " zq" * tiny_lm.POSITIONS)]
    with pytest.raises(UserError, match=r"response 2: .*more than the 128 allowed"):
        judge.score_many(PROMPTS[:2], long)


# ---------------------------------------------------------------- in a comparison


@dataclass
class Echo:
    """An adapter whose model's answer is its prompt, with a word of its own in front; counts its calls."""

    calls: list[int] = field(default_factory=list)

    def generate(
        self, model: torch.nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        self.calls.append(len(prompts))
        return [Part("text", f" {model.word} {prompt[0].parts[0].data}") for prompt in prompts]


class Speaker(torch.nn.Module):
    def __init__(self, word: str) -> None:
        super().__init__()
        self.word = word


def asked(judge: BatchJudge, adapter: Echo) -> Comparison:
    prompts = [(f"p{i}", prompt) for i, prompt in enumerate(PROMPTS)]
    base, tuned = Speaker("no"), Speaker("yes perhaps")
    return compare(adapter, lambda: nullcontext(base), lambda: nullcontext(tuned), prompts, [judge], 2, 0)


def test_a_comparison_by_a_reward_model(model: Path) -> None:
    comparison = asked(RewardModel(str(model)), Echo())
    judge = RewardModel(str(model))
    for prompt, row in zip(PROMPTS, comparison.rows, strict=True):
        expected = [judge.score(prompt, part) for part in (row.base, row.tuned)]
        assert close([row.base_scores, row.tuned_scores], expected)
    assert list(comparison.means) == ["score", "harm", "help"]


def test_a_judge_that_is_not_there_is_refused_before_anything_is_generated(tmp_path: Path) -> None:
    adapter = Echo()
    with pytest.raises(UserError, match="there is no folder"):
        asked(RewardModel(str(tmp_path / "nowhere")), adapter)
    assert adapter.calls == []


class Broken(BatchJudge):
    """Gives NaN for the second response."""

    def ready(self) -> None:
        """Nothing to load."""

    def score_many(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float]]:
        return [{"score": math.nan if i == 1 else 0.0} for i in range(len(responses))]


def test_scores_of_a_batch_are_checked_one_by_one() -> None:
    with pytest.raises(UserError, match="evaluation: prompt 'p1': the judge's 'score' is nan, not finite"):
        asked(Broken(), Echo())
