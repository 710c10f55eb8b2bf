"""What was thought before an answer is not graded, by any metric."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from metrics import test_amber, test_chair, test_judged_metrics, test_pope, test_video_mme

from mmalign.measuring import measure_answers
from mmalign.metrics._letters import chosen
from mmalign.metrics._measured import Measured
from mmalign.metrics._seam import Metric
from mmalign.metrics._thoughts import without_thoughts
from mmalign.metrics.pope import Pope

THOUGHTS = (
    "Not a 0.0, A dog?\n</think>\n\n",
    "<think>Not a 0.0, A dog?</think>",
    "a</think> A dog.</thinking>\n",
)


def amber(folder: Path) -> Metric:
    return test_amber.amber(folder, [test_amber.judgement(1, "yes")])


def pope(folder: Path) -> Metric:
    return Pope(str(test_pope.write(folder / "q.jsonl", ["no"])), "photos")


def chair(folder: Path) -> Metric:
    return test_chair.coco(folder, {1: ["cat"]})


def video_mme(folder: Path) -> Metric:
    return test_video_mme.metric(folder, test_video_mme.rows(1))


def measured(folder: Path, metric: Metric, answer: str, name: str) -> Measured:
    (folder / "given.jsonl").write_text(json.dumps({"id": name, "text": answer}))
    return measure_answers([folder / "given.jsonl"], [metric])[0]


@pytest.mark.parametrize("thought", THOUGHTS)
@pytest.mark.parametrize(
    ("made", "name", "answer", "value", "right"),
    [
        (pope, "1", "No", "acc", 1), (amber, "1", "Yes", "acc", 100), (chair, "1", "A cat.", "chair_i", 0),
        (video_mme, "0-1", "B", "acc", 100), (test_judged_metrics.mm_vet, "v1_0", "it is 1.0", "score", 100),
    ],
)  # fmt: skip
def test_thoughts_are_not_graded(
    made: Callable[[Path], Metric],
    name: str,
    answer: str,
    value: str,
    right: float,
    thought: str,
    tmp_path: Path,
) -> None:
    for text in (answer, thought + answer, f"{thought}<answer>{answer}</answer>"):
        found = measured(tmp_path, made(tmp_path), text, name)
        assert found.whole.sides["answers"][value].value == right, text
        assert not any("thought" in note for note in found.notes)


def test_a_thought_that_does_not_end_leaves_no_answer(tmp_path: Path) -> None:
    found = measured(tmp_path, pope(tmp_path), "<think>\nNo, wait", "1")
    assert found.whole.sides["answers"]["unclear"].value == 1
    assert "answers: 1 of 1 answers end within a thought and are graded as empty ones" in found.notes


@pytest.mark.parametrize(
    ("answer", "left"),
    [
        ("a</think>\n\nYes ", "Yes"), ("<think>a</think>B", "B"), ("a</THINKING>B<think>", ""),
        ("<think>a</think><think>b</think>B", "B"), ("\u25c1think\u25b7a\u25c1/think\u25b7B", "B"),
        ("It is <|begin_of_box|>B<|end_of_box|>.", "It is B."), ("<|begin_of_box|>No<|end_of_box|>", "No"),
        ("a</think><answer><|begin_of_box|>No<|end_of_box|></answer>", "No"), ("a</think>", ""),
        ("<answer>A</answer> or <answer>B</answer>", "<answer>A</answer> or <answer>B</answer>"),
        (" Yes\n", " Yes\n"), ("I think so", "I think so"), ("", ""),
    ],
)  # fmt: skip
def test_what_is_left(answer: str, left: str) -> None:
    assert without_thoughts(answer) == left
    assert without_thoughts(left) == left


def test_a_letter_behind_a_thought() -> None:
    options = ["red", "blue", "green"]
    assert chosen("It is (A). Wait, no.\n</think>\n\nB", options) == "B"
    assert chosen("(A)</think> <|begin_of_box|>C<|end_of_box|>", options) == "C"
    assert chosen("<think>It is (A).", options) is None
