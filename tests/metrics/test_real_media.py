"""Every benchmark on real photos or clips, answered by models of random weights: nothing depends on batches
or is asked twice, what is broken is named, and somebody's answers are worth what they are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from adapters.tiny_vlm import build_vlm, save_vlm
from cli_runs import call
from metrics import real_benchmarks as of_photos
from metrics import real_clip_benchmarks as of_clips
from metrics.real_media import Film, Photo, Place, films, photos
from torch import nn

from mmalign import api
from mmalign._evaluation import metrics_from
from mmalign._names import KINDS, names
from mmalign.adapters._text_sampling import Sampling
from mmalign.adapters._vision_lm import VisionLM
from mmalign.catalogue import shapes
from mmalign.clips import Clip, Frames
from mmalign.data._digest import digest
from mmalign.data._media import decode
from mmalign.evaluation.asking import Asker, Side
from mmalign.measuring import measure_answers, named
from mmalign.metrics._control import Control
from mmalign.metrics._measured import FOLDER, measured, read, write
from mmalign.metrics._reading import asked, medium
from mmalign.metrics._seam import Metric, Question
from mmalign.types import Example, Message, Part, PreferenceSample, UserError

ROLES = ("chosen", "rejected")
Making = Callable[[Place], of_photos.Bench]
DRAWN = "its scenes are drawn here, no file of a picture is read"
CASES: dict[str, Making | str] = {
    "amber": of_photos.amber,
    "blink": of_photos.blink,
    "chair": of_photos.chair,
    "frame_shuffle": of_clips.frame_shuffle,
    "green": of_photos.green,
    "image_swap": of_photos.image_swap,
    "mantis": of_photos.mantis,
    "mm_rlhf": "it reads rewards and asks nothing; test_rewards_of_answers_about_photos has a model's",
    "mm_vet": of_photos.mm_vet,
    "mmhal": of_photos.mmhal,
    "mvbench": of_clips.mvbench,
    "nlvr2": of_photos.nlvr2,
    "object_halbench": of_photos.object_halbench,
    "pope": of_photos.pope,
    "tempcompass": of_clips.tempcompass,
    "video_mme": of_clips.video_mme,
    "mmalign.shapes.metrics:Chair": DRAWN,
    "mmalign.shapes.metrics:Pope": DRAWN,
}
ASKED = [(place, name) for place, name in enumerate(CASES) if not isinstance(CASES[name], str)]


def test_every_metric_is_asked_here() -> None:
    """A metric that is new needs a benchmark above."""
    known = {*names(KINDS["metrics"]), *shapes("metrics")}
    assert not known - set(CASES), "no benchmark of real media, nor a reason why there is none"
    assert set(CASES) == known


# ---------------------------------------------------------------- media and models


@pytest.fixture(scope="module")
def stored(test_data: Path) -> tuple[list[Photo], dict[str, Film]]:
    """Photos in all forms, and clips."""
    return photos(test_data), films(test_data)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a model that reads photos and clips, of any size."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield save_vlm("qwen2_5_vl", tmp_path_factory.mktemp("model"))
    torch.set_num_threads(threads)


@dataclass
class Heard:
    """An adapter that notes how many prompts of each batch it was asked, and what every prompt showed: a
    digest for each picture, and for each frame of a clip."""

    inner: VisionLM
    batches: list[int] = field(default_factory=list)
    shown: list[list[str]] = field(default_factory=list)

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        """The adapter's own answers."""
        given = self.inner.generate(model, prompts, seeds)
        self.batches.append(len(given))
        for turns in prompts:
            media = [part.data for part in turns[0].parts if part.kind != "text"]
            seen = [one.frames if isinstance(one, Clip) else [one] for one in media]
            self.shown.append([digest(picture) for pictures in seen for picture in pictures])
        return given

    def asker(self, folder: Path, batch: int) -> Asker:
        """Questions that are put to it from now on."""
        self.batches.clear()
        self.shown.clear()
        return Asker(self, self.inner.frames, folder, batch, 0, lambda line: None)

    @property
    def side(self) -> Side:
        """The model as the base model of a run."""

        @contextmanager
        def model() -> Iterator[nn.Module]:
            yield self.inner.policy.eval()

        return Side("base", {"weights": "random"}, model)


@pytest.fixture(scope="module")
def models(saved: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Heard]:
    """The model as one of pictures and as one of clips, whose frames are kept once they are decoded."""
    words = Sampling(max_new_tokens=4)
    frames = Frames(count=4, scale_to=1024, cache=str(tmp_path_factory.mktemp("frames")))
    made = {
        "image": build_vlm(saved, generation=words),
        "video": build_vlm(saved, video=True, generation=words, frames=frames),
    }
    return {kind: Heard(adapter) for kind, adapter in made.items()}


def metric_of(section: Any) -> tuple[str, Metric]:
    """The metric of a section, with its name."""
    ((name, metric),) = named(metrics_from([section], "test", allow_code=True))
    return name, metric


# ---------------------------------------------------------------- every benchmark


@pytest.mark.parametrize(("number", "name"), ASKED)
def test_a_benchmark_of_real_media(
    number: int,
    name: str,
    test_data: Path,
    stored: tuple[list[Photo], dict[str, Film]],
    models: dict[str, Heard],
    tmp_path: Path,
) -> None:
    listed, clips = stored
    turn = number % len(listed)
    making = CASES[name]
    assert not isinstance(making, str)
    bench = making(Place(tmp_path, test_data, [*listed[turn:], *listed[:turn]], clips))
    assert bench.section["name"] == name
    called, metric = metric_of(bench.section)
    metric.ready()
    questions = list(metric.ask())
    kinds = {part.kind for one in questions for turn_ in one.turns for part in turn_.parts}
    (heard,) = (models[kind] for kind in models if kind in kinds)
    found = answered(bench, questions, heard, tmp_path)
    if isinstance(metric, Control):
        half = len(questions) // 2
        plain, viewed = heard.shown[:half], heard.shown[half:]
        assert all(one != other for one, other in zip(plain, viewed, strict=True))
        if metric.word == "shuffled":
            assert list(map(sorted, plain)) == list(map(sorted, viewed))
        else:
            assert all(one in plain for one in viewed)
    graded = {"base": metric.grade(found), "tuned": metric.grade(metric.predictions(Path(bench.answers)))}
    assert {one.id for one in graded["base"]} == {one.id for one in graded["tuned"]}
    result = measured(metric, called, graded)
    write(tmp_path, result, graded)
    assert read(tmp_path) == [result]
    sides = result.whole.sides
    assert result.whole.num == len(questions) >= 6 and sides["base"].keys() == sides["tuned"].keys()
    assert any(figure.value is not None for figure in sides["base"].values())
    for value, worth in bench.worth.items():
        figure, change = sides["tuned"][value], result.whole.difference[value]
        assert figure.value == pytest.approx(worth), value
        if figure.low is not None and figure.high is not None:
            assert figure.low <= worth <= figure.high and figure.low < figure.high, value
        before = sides["base"][value].value
        assert change.value == (None if before is None else pytest.approx(worth - before)), value
    assert any(sides["tuned"][value].low is not None for value in bench.worth)


def answered(
    bench: of_photos.Bench, questions: Sequence[Question], heard: Heard, folder: Path
) -> dict[str, str]:
    """The answers, whatever the batch: none is asked for twice, not by a call that goes on behind a file that
    is broken, which ends the first one in a line that names the question and the file."""
    whole = bench.last.read_bytes()
    bench.last.write_bytes(bench.cut or whole[: len(whole) // 2])
    asker = heard.asker(folder, 4)
    shown = [bench.last.name in map(_file, one.turns[0].parts) for one in questions].index(True)
    with pytest.raises(UserError) as refused:
        asker.answers(heard.side, questions)
    told = str(refused.value)
    assert told.startswith(f"{questions[shown].asks}: question {questions[shown].id!r}") and "\n" not in told
    assert f"{bench.last.name}'" in told and told.endswith("the answers before it are kept")
    bench.last.write_bytes(whole)
    assert sum(heard.batches) == shown // 4 * 4 >= 4
    found = asker.answers(heard.side, questions)
    assert sum(heard.batches) == len(questions) == len(found)
    assert asker.answers(heard.side, questions) == found and sum(heard.batches) == len(questions)
    assert heard.asker(folder / "other", 7).answers(heard.side, questions) == found
    assert heard.batches[0] >= 6 and len(set(found.values())) > len(found) // 2
    return found


def _file(part: Part) -> str | None:
    return None if part.kind == "text" else Path(part.data.name).name


# ---------------------------------------------------------------- other ways to the figures


def test_rewards_of_answers_about_photos(
    stored: tuple[list[Photo], dict[str, Film]], models: dict[str, Heard], tmp_path: Path
) -> None:
    """A model's likelihoods of captions by people as rewards: right where that of the photo is likelier than
    that of another, whatever is scored beside it."""
    listed, adapter = stored[0], models["image"].inner
    for photo in listed:
        (tmp_path / photo.name).write_bytes(photo.content)
    samples = []
    for i, photo in enumerate(listed[:6]):
        prompt = asked(medium("image", str(tmp_path), photo.name), "Describe it.")
        for k in (0, 1):
            texts = {"chosen": photo.captions[k], "rejected": listed[i + 1].captions[k]}
            sides = {side: (Example(prompt, (Part("text", text),)),) for side, text in texts.items()}
            samples.append(PreferenceSample(photo.name, sides))
    found = [rewards(adapter, samples, batch) for batch in (5, 12)]
    assert found[0] == [pytest.approx(pair, abs=1e-5) for pair in found[1]]
    files = []
    for number, pairs in enumerate(found):
        rows = [{"id": one.id, "rewards": pair} for one, pair in zip(samples, pairs, strict=True)]
        files.append(tmp_path / f"rewards{number}.jsonl")
        files[-1].write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, metric = metric_of({"name": "mm_rlhf"})
    (result,) = measure_answers(files, [metric])
    right = [better > worse for better, worse in found[0]]
    whole = result.whole
    assert whole.num == 6 and whole.sides["base"] == whole.sides["tuned"]
    assert whole.sides["base"]["acc"].value == pytest.approx(sum(right) / 12)
    both = [all(two) for two in zip(right[::2], right[1::2], strict=True)]
    assert whole.sides["base"]["acc_plus"].value == pytest.approx(sum(both) / 6)
    assert 0 < sum(right) < 12 and whole.sides["base"]["acc"].low is not None


def rewards(adapter: VisionLM, samples: Sequence[PreferenceSample], batch: int) -> list[list[float]]:
    """The mean log-probability of a token, of the chosen and the rejected answer of every sample."""
    found: list[list[float]] = []
    for start in range(0, len(samples), batch):
        part = [decode(one) for one in samples[start : start + batch]]
        ready = adapter.encode([adapter.prepare(one, ROLES) for one in part])
        with torch.no_grad():
            scored = adapter.logprobs(
                adapter.policy.eval(), adapter.collate(ready, ROLES), {}, frozenset()
            ).mean()
        found += scored.view(2, len(part)).T.tolist()
    return found


def test_photos_and_clips_through_the_command_line(
    test_data: Path,
    stored: tuple[list[Photo], dict[str, Film]],
    saved: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run whose config names a benchmark of photos and one of clips: a photo that is cut off ends it in one
    line, the call after that goes on and measures both models, and the next has nothing to ask."""
    listed, clips = stored
    benches = []
    for name, making in (("photos", of_photos.pope), ("clips", of_clips.video_mme)):
        (tmp_path / name).mkdir()
        benches.append(making(Place(tmp_path / name, test_data, listed, clips)))
    run = trained(tmp_path, saved, [bench.section for bench in benches], listed[0])
    photo = benches[0].last
    whole = photo.read_bytes()
    photo.write_bytes(whole[: len(whole) // 2])
    refused = call(capsys, "evaluate", run, "--metric", "pope")
    assert refused.code == 2 and f"image '{photo.name}': the picture is broken" in refused.refusal
    photo.write_bytes(whole)
    both = ("--metric", "pope", "--metric", "video_mme", "--json")
    done = call(capsys, "evaluate", run, *both)
    assert done.code == 0, done.err
    assert "pope: 8 of 10 answers of base are kept" in done.err and "of tuned are kept" not in done.err
    tree = json.loads(done.out)["metrics"]
    assert {name: one["blocks"][0]["num"] for name, one in tree.items()} == {"pope": 10, "video_mme": 6}
    whole_of = tree["pope"]["blocks"][0]
    assert all(0 <= whole_of["sides"][side]["yes_ratio"]["value"] <= 1 for side in ("base", "tuned"))
    assert whole_of["difference"].keys() == whole_of["sides"]["base"].keys()
    page = (run / "report.html").read_text()
    assert "pope (10 items, tuned at step 1)" in page and "video_mme (6 items, tuned at step 1)" in page
    kept = {path: path.read_text() for path in (run / "evaluation" / FOLDER).glob("*/answers.*.jsonl")}
    assert len(kept) == 4
    again = call(capsys, "evaluate", run, *both)
    assert again.out == done.out and again.err.count("answers of") == 4
    assert kept == {path: path.read_text() for path in kept}


def trained(folder: Path, saved: Path, metrics: Sequence[Any], photo: Photo) -> Path:
    """A run of one step on a pair about a photo, whose config names these metrics."""
    (folder / "photo.jpg").write_bytes(photo.content)
    turn = {
        "role": "user",
        "content": [{"type": "image", "image": "photo.jpg"}, {"type": "text", "text": "?"}],
    }
    row = {"id": "a", "prompt": [turn], "chosen": photo.captions[0], "rejected": "A zebra."}
    (folder / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    frames = {"count": 4, "scale_to": 1024, "cache": str(folder / "frames")}
    model = {"adapter": "video_lm", "path": str(saved), "frames": frames}
    tree = {
        "model": {**model, "generation": {"max_new_tokens": 4}},
        "data": {"source": "jsonl", "path": str(folder / "pairs.jsonl")},
        "objective": {"name": "dpo"},
        "train": {"steps": 1, "batch": 1, "lr": 1e-2},
        "evaluation": {"batch": 4, "metrics": metrics},
        "log": {"progress": False},
        "cache": str(folder / "cache"),
        "output": str(folder / "run"),
    }
    (folder / "run.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    return api.train(folder / "run.yaml")
