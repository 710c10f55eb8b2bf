"""GREEN as a metric: unread verdicts are left out and counted, lengths are told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from metrics.test_nlvr2 import write as write_rows
from writers import own_writers

from mmalign.metrics._resampling import figures
from mmalign.metrics.green import Green
from mmalign.types import Message, Part, UserError


@dataclass(frozen=True)
class Shared:
    """The share of the reference's words that the report has; no verdict on an empty report."""

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        (found,) = self.verdicts([prompt], [response])
        assert found is not None
        return found

    def verdicts(
        self, prompts: Sequence[tuple[Message, ...]], responses: Sequence[Part]
    ) -> list[Mapping[str, float] | None]:
        pairs = [
            (set(p[0].parts[0].data.split()), set(r.data.split()))
            for p, r in zip(prompts, responses, strict=True)
        ]
        return [{"score": len(there & said) / len(there)} if said else None for there, said in pairs]


JUDGE = {"name": "metrics.test_green:Shared"}
ROWS = [
    {"id": "a", "report": "clear lungs no effusion", "image": "a.png"},
    {"id": "b", "report": "large heart", "images": ["b1.png", "b2.png"], "question": "What is seen?"},
    {"id": "c", "report": "normal", "image": "c.png"},
]


def test_means_and_lengths(tmp_path: Path) -> None:
    metric = Green(write_rows(tmp_path / "q.jsonl", ROWS), "studies", JUDGE)
    metric.ready()
    first, second, _ = metric.ask()
    assert first.turns[0].parts[1].data == metric.prompt and [p.kind for p in second.turns[0].parts] == [
        *("image", "image", "text"),
    ]
    items = metric.grade({"a": "clear lungs", "b": "large heart large heart", "c": ""})
    found = figures(metric, items)
    assert found["green"].value == 0.75 and found["unread"].value == pytest.approx(1 / 3)
    assert found["length_ratio"].value == pytest.approx((0.5 + 2 + 0) / 3)
    assert items[2].shown == {"verdict": None} and metric.is_unchecked


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="row 1: report must be a text"):
        Green(write_rows(tmp_path / "q.jsonl", [{"id": "a", "image": "a.png"}]), "studies", JUDGE).ask()
    with pytest.raises(UserError, match="no reward is called 'nobody'"):
        Green(write_rows(tmp_path / "q.jsonl", ROWS), "studies", {"name": "nobody"}).ready()


def test_a_language_model_as_the_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(turns: tuple[Message, ...], seed: int) -> str | None:
        text = turns[0].parts[0].data
        counts = "\n".join(f"({kind}) errors: {int(kind == 'b')}" for kind in "abcdef")
        lists = f"[Clinically Significant Errors]:\n{counts}\n[Clinically Insignificant Errors]:\n{counts}\n"
        matched = "[Matched Findings]:\n3." if "Reference: clear lungs no effusion" in text else ""
        return lists + matched

    monkeypatch.setattr(own_writers, "graded", write)
    judge = {"name": "green", "writer": {"name": "python_function", "function": "writers.own_writers:graded"}}
    metric = Green(write_rows(tmp_path / "q.jsonl", ROWS), "studies", judge)
    metric.ready()
    found = figures(metric, metric.grade({"a": "clear", "b": "large", "c": "normal"}))
    assert found["green"].value == 0.75 and found["unread"].value == pytest.approx(2 / 3)


def test_a_judge_that_wants_what_nobody_tells_is_refused(tmp_path: Path) -> None:
    writer = {"name": "python_function", "function": "writers.own_writers:graded"}
    judge = {"name": "llm_judge", "writer": writer, "template": "{caption} {response}"}
    with pytest.raises(UserError, match="judge: llm_judge wants the caption of every prompt"):
        Green(write_rows(tmp_path / "q.jsonl", ROWS), "studies", judge).ready()
