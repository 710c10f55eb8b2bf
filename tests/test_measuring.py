"""Benchmarks of a run and of prediction files, through the command line."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from cli_runs import call
from metrics.test_pope import write

from mmalign import api
from mmalign._evaluation import AnswerSettings, evaluation_from, evaluation_tree
from mmalign.measuring import questions_of
from mmalign.metrics import Graded, Metric, Question, Sums, _measured, ratio
from mmalign.metrics._measured import Measured
from mmalign.metrics._reading import asked
from mmalign.metrics.pope import Pope
from mmalign.report.measured import benchmarks
from mmalign.types import Part, UserError

ROOT = Path(__file__).parents[1]
SMALL = '[{name: "mmalign.shapes.metrics:Chair", num: 6}, {name: "mmalign.shapes.metrics:Pope", num: 2}]'
Capture = pytest.CaptureFixture[str]


def test_a_run_is_measured_and_nothing_is_asked_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.chdir(ROOT)
    run = api.train(
        "configs/quickstart/vlm.yaml",
        *("train.steps=1", "train.batch=2", "data.limit=4", "heldout.limit=4", "log.progress=false"),
        *("train.warmup_steps=0", f"output={tmp_path / 'run'}", f"cache={tmp_path / 'cache'}"),
        f"evaluation.metrics={SMALL}",
    )
    done = call(capsys, "evaluate", run, "--prompts", "4", "--json")
    assert done.code == 0, done.err
    tree = json.loads(done.out)
    assert tree["win_rate"] and list(tree["metrics"]) == ["Chair", "Pope"]
    whole = tree["metrics"]["Chair"]["blocks"][0]
    assert whole["num"] == 4 and set(whole["sides"]) == {"base", "tuned"} and "recall" in whole["difference"]
    manner = tree["metrics"]["Chair"]["answered"]
    assert (manner["temperature"], manner["top_p"], manner["seed"]) == (0, 1, 0)
    again = call(capsys, "evaluate", run, "--metric", "mmalign.shapes.metrics:Chair")
    assert f"  answers: greedy, at most {manner['max_new_tokens']} tokens\n" in again.out
    assert again.code == 0 and "win rate" not in again.out and "Chair, 6 items" in again.out
    assert "Chair: 4 of 6 answers of base are kept" in again.err and "of tuned are kept" in again.err
    kept = run / "evaluation" / "metrics" / "Chair" / "answers.tuned.jsonl"
    offline = call(
        capsys, "evaluate", "--answers", kept, "--metric", "{name: 'mmalign.shapes.metrics:Chair', num: 6}"
    )
    (recall,) = [line.split() for line in offline.out.splitlines() if line.startswith("  recall")]
    (online,) = [line for line in again.out.splitlines() if line.startswith("  recall")]
    assert recall[1] in online
    page = (run / "report.html").read_text()
    assert "<h2>Benchmarks</h2>" in page and "Chair (6 items, tuned at step 1)" in page
    assert f"Answers: greedy, at most {manner['max_new_tokens']} tokens." in page
    assert "chair_i (less is better)" in page and "split: companion" in page
    refused = call(capsys, "evaluate", run, "--metric", "{name: pope, questions: q.jsonl, images: x}")
    assert refused.code == 2 and "q.jsonl: No such file or directory" in refused.refusal


def test_a_folder_of_pictures_that_is_not_there_is_told_first(
    runs: Path, tmp_path: Path, capsys: Capture
) -> None:
    questions = write(tmp_path / "q.jsonl", ["yes", "no"])
    metric = f"{{name: pope, questions: '{questions}', images: {tmp_path / 'gone'}}}"
    done = call(capsys, "evaluate", runs / "text", "--metric", metric)
    assert done.code == 2 and f"pope.images: there is no folder {tmp_path / 'gone'}" in done.refusal
    swapped = f"{{name: image_swap, of: {metric}}}"
    done = call(capsys, "evaluate", runs / "text", "--metric", swapped)
    assert done.code == 2 and f"there is no folder {tmp_path / 'gone'}" in done.refusal


def test_pictures_that_are_not_there_are_told_before_anything_is_asked(tmp_path: Path) -> None:
    questions = write(tmp_path / "q.jsonl", ["yes", "no", "yes"])
    names = [json.loads(line)["image"] for line in questions.read_text().splitlines()]
    (tmp_path / "photos").mkdir()
    metric = Pope(questions=str(questions), images=str(tmp_path / "photos"))
    run = cast(Any, SimpleNamespace(adapter=SimpleNamespace(kind="exact", media={"image"})))
    first = rf"question 1: {names[0]!r}: no such file in images \({tmp_path}/photos\)$"
    with pytest.raises(UserError, match=f"^pope: {len(set(names))} of {len(set(names))} files .* {first}"):
        questions_of(metric, "pope", run, None)
    with pytest.raises(UserError, match=f"^pope: {first}"):
        questions_of(metric, "pope", run, 1)
    for name in names:
        (tmp_path / "photos" / name).touch()
    assert len(questions_of(metric, "pope", run, None)) == 3


def test_empty_answers_are_told(tmp_path: Path, capsys: Capture) -> None:
    questions = write(tmp_path / "q.jsonl", ["yes", "no"])
    metric = f"{{name: pope, questions: '{questions}', images: photos}}"
    path = tmp_path / "answers.jsonl"
    for texts, told in ((("", " "), "2 of 2 answers are empty"), (("Yes", ""), "1 of 2 answers is empty")):
        path.write_text(
            "".join(json.dumps({"id": str(i), "answer": t}) + "\n" for i, t in enumerate(texts, 1))
        )
        done = call(capsys, "evaluate", "--metric", metric, "--answers", path)
        assert done.code == 0 and f"answers: {told}" in done.out, done


def test_metrics_of_the_built_in_world_are_pointed_to(capsys: Capture) -> None:
    done = call(capsys, "evaluate", "--answers", "a.jsonl", "--metric", "chair")
    assert done.code == 2 and "instances: this field is required" in done.refusal
    assert "the built-in world of shapes has mmalign.shapes.metrics:Chair" in done.refusal


def test_a_model_that_reads_no_pictures_is_refused(runs: Path, capsys: Capture) -> None:
    done = call(capsys, "evaluate", runs / "text", "--metric", "mmalign.shapes.metrics:Chair")
    assert done.code == 2
    assert (
        "Chair: asks about image, to be answered in words; this run's model (text) reads none" in done.refusal
    )
    done = call(capsys, "evaluate", runs / "text", "--metric", "mmalign.shapes.metrics:Chair", "--file", "x")
    assert done.code == 2 and "leave out --judge and --file" in done.refusal


def test_prediction_files(tmp_path: Path, capsys: Capture) -> None:
    questions = write(tmp_path / "q.jsonl", ["yes", "no", "yes", "no"])
    metric = f"{{name: pope, questions: '{questions}', images: photos}}"
    base, tuned = tmp_path / "base.jsonl", tmp_path / "tuned.jsonl"
    base.write_text("".join(f'{{"question_id": {i}, "text": "yes"}}\n' for i in range(1, 5)))
    tuned.write_text(
        '[{"id": "1", "answer": "Yes"}, {"id": "2", "answer": "No"}, {"id": "9", "answer": "No"}]'
    )
    done = call(capsys, "evaluate", "--metric", metric, "--answers", base, "--answers", tuned)
    assert done.code == 0, done.err
    shown = {line.split()[0]: line for line in done.out.splitlines() if " -> " in line}
    assert "0.500" in shown["acc"] and "-> 1.000" in shown["acc"] and "change 0.500" in shown["acc"]
    assert "tuned: 2 of 4 questions have no answer and are left out" in done.out
    assert "tuned: 1 answer belongs to no question and is left out" in done.out and "empty" not in done.out
    one = json.loads(call(capsys, "evaluate", "--metric", metric, "--answers", base, "--json").out)
    assert one["metrics"]["pope"]["blocks"][0]["sides"]["answers"]["yes_ratio"]["value"] == 1
    tuned.write_text('{"id": "7", "answer": "No"}')
    none = call(capsys, "evaluate", "--metric", metric, "--answers", tuned)
    assert none.code == 2 and "tuned.jsonl: answers no question of pope; its ids are others" in none.refusal


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "name the folder of a run, or answers to grade"),
        (["--answers", "a.jsonl"], "say by --metric what the files answer"),
        (["run", "--answers", "a.jsonl", "--prompts", "3"], "leave out RUN, --prompts"),
        (["--answers", "a.jsonl", "--metric", "pop"], "no metric is called 'pop'; did you mean pope?"),
        (["--answers", "a.jsonl", "--metric", "pope"], "--metric[0].questions: this field is required"),
    ],
)
def test_refusals(options: list[str], words: str, capsys: Capture) -> None:
    done = call(capsys, "evaluate", *options)
    assert done.code == 2 and words in done.refusal


def test_results_are_read_back(tmp_path: Path) -> None:
    metric = Pope(str(write(tmp_path / "random.jsonl", ["yes", "no"])), "photos")
    graded = {
        "base": metric.grade({"random/1": "no"}),
        "tuned": list[Graded](metric.grade({"random/1": "yes"})),
    }
    found = _measured.measured(metric, "pope", graded, ["a <b> note"], 7)
    place = _measured.write(tmp_path, found, graded)
    assert _measured.read(tmp_path) == [found] and found.manner == ""
    tree = json.loads(place.read_text())
    del tree["answered"]  # as it was written before answers' settings were kept
    place.write_text(json.dumps(tree))
    assert _measured.read(tmp_path) == [found]
    place.write_text(json.dumps(tree | {"answered": {"temperature": 0.0}}))
    with pytest.raises(UserError, match="not a metric's results"):
        _measured.read(tmp_path)
    rows = (tmp_path / "evaluation" / "metrics" / "pope" / "items.tuned.jsonl").read_text().splitlines()
    assert json.loads(rows[0])["shown"] == {"said": "yes", "label": "yes"}
    page = str(benchmarks([found]))
    assert "a &lt;b&gt; note" in page and "+1.000" in page and benchmarks([]) is None
    told = str(benchmarks([replace(found, unchecked=True, words="Reads `label`.")]))
    assert "<code>label</code>" in told and "judge" in told and "Judged by a model" not in told
    (tmp_path / "evaluation" / "metrics" / "pope" / "results.json").write_text("{}")
    with pytest.raises(UserError, match="not a metric's results"):
        _measured.read(tmp_path)


@dataclass(frozen=True)
class Spelling(Metric):
    """A metric of one's own: does the answer spell the word that was asked for."""

    word: str

    def ask(self) -> list[Question]:
        """One question of text alone."""
        return [Question("q", asked(f"Spell {self.word}."), "spelling")]

    def grade(self, answers: Mapping[str, str]) -> list[Graded]:
        """Right or wrong."""
        return (
            [Graded("q", {"asked": 1, "right": float(answers["q"] == self.word)})] if "q" in answers else []
        )

    def values(self, sums: Sums) -> dict[str, Any]:
        """The share of right ones."""
        return {"right": ratio(sums["right"], sums["asked"])}


def test_both_models_answer_greedily_unless_told_otherwise(
    runs: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Whatever `model.generation` says, which is for sampling: figures would move with the seed."""
    run = api.open_run(shutil.copytree(runs / "text", tmp_path / "run"))
    assert run.adapter.config.generation.temperature == 1  # type: ignore[attr-defined]
    kept = run.folder / "evaluation" / "metrics" / "spelling" / "answers.tuned.jsonl"

    def said(seed: int, generation: AnswerSettings | None = None) -> tuple[str, Measured]:
        evaluation = replace(run.config.evaluation, generation=generation or AnswerSettings())
        other = replace(run, config=replace(run.config, evaluation=evaluation))
        (found,) = api.measure(other, [Spelling("red")], seed=seed)
        assert _measured.read(run.folder) == [found]
        return json.loads(kept.read_text().splitlines()[1])["answer"], found

    greedy = [said(seed) for seed in range(3)]
    assert len({text for text, _ in greedy}) == 1
    most = greedy[0][1].answered["max_new_tokens"]  # type: ignore[index]
    assert greedy[0][1].manner == f"answers: greedy, at most {most} tokens"
    hot = AnswerSettings(temperature=1.0, top_p=0.95, max_new_tokens=5)
    sampled = [said(seed, hot) for seed in range(3)]
    assert len({text for text, _ in sampled}) > 1
    assert sampled[2][1].manner == (
        "answers: sampled at temperature 1 from the likeliest 0.95, seed 2, at most 5 tokens"
    )
    capsys.readouterr()
    said(2, replace(hot, max_new_tokens=6))
    told = capsys.readouterr().err
    assert told.count("holds answers of other weights, settings or another seed; they are replaced") == 2
    said(2, replace(hot, max_new_tokens=6))
    assert "1 of 1 answers of tuned are kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"temperature": -1}, "temperature: must be 0 or more, got -1"),
        ({"temperature": 1, "top_p": 0}, r"top_p: must lie in \(0, 1\], got 0"),
        ({"top_p": 0.9}, "top_p: does nothing at temperature 0, got 0.9"),
        ({"max_new_tokens": 0}, "max_new_tokens: must be 1 or more, got 0"),
    ],
)
def test_settings_of_answers(fields: dict[str, float], rule: str) -> None:
    with pytest.raises(UserError, match=rf"^here\.generation\.{rule}"):
        evaluation_from({"generation": fields}, "here", False)
    tree = {"generation": {"temperature": 0.5, "top_p": 0.9, "max_new_tokens": 7}}
    built = evaluation_from(tree, "here", False)
    assert evaluation_tree(built)["generation"] == tree["generation"]


def test_an_adapter_of_its_own_settings(runs: Path, tmp_path: Path) -> None:
    """What answers without a config's `generation` is asked as it is, and settings for it are refused."""
    run = api.open_run(shutil.copytree(runs / "text", tmp_path / "run"))

    class Own:
        kind, media, frames = "exact", frozenset[str](), None

        def generate(self, model: Any, prompts: Any, seeds: Any) -> list[Part]:
            return [Part("text", "red") for _ in prompts]

    own = replace(run, adapter=cast(Any, Own()))
    (found,) = api.measure(own, [Spelling("red")])
    assert (found.answered, found.manner) == (None, "")
    assert found.whole.sides["tuned"]["right"].value == 1
    evaluation = replace(run.config.evaluation, generation=AnswerSettings(temperature=1.0))
    hot = replace(own, config=replace(run.config, evaluation=evaluation))
    with pytest.raises(UserError, match="^evaluation.generation: Own answers by settings of its own; remove"):
        api.measure(hot, [Spelling("red")])


def test_a_metric_of_your_own_on_a_model_of_texts(runs: Path, capsys: Capture) -> None:
    done = call(
        capsys,
        "evaluate",
        runs / "text",
        "--metric",
        "{name: 'test_measuring:Spelling', word: red}",
        "--json",
    )
    assert done.code == 0, done.err
    whole = json.loads(done.out)["metrics"]["Spelling"]["blocks"][0]
    assert whole["sides"]["tuned"]["right"]["value"] in (0, 1) and whole["num"] == 1
