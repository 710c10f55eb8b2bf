"""Every builder on real photos or clips, asked of the smallest models: builds end, count and copy rightly."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from adapters import tiny_families
from PIL import Image, ImageOps
from training.faults import ALONE

import mmalign
from mmalign._names import KINDS, names
from mmalign.builders import (
    _config,
    _run,
)
from mmalign.builders._model import Answering
from mmalign.builders._originals import BROKEN
from mmalign.clips import Frames
from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.types import PreferenceSample

PHOTOS = ("000000144941", "000000204805", "000000331352", "000000542145")  # of both formats
CLIPS = ("bbb_wake_5s", "chaplin_10s", "testcard_timecode_2s")
FRAMES = Frames(count=4)
BOTH = frozenset({"chosen", "rejected"})
SHIPPED = Path(mmalign.__file__).parent / "shapes/models"
HELPER = {"name": "python_function", "function": "builders.real_builds:written"}
JUDGE = {"name": "python_function", "function": "builders.real_builds:worth"}
GRADER = {
    "name": "llm_judge",
    "media": False,
    "low": 1,
    "high": 5,
    "template": "Caption: {caption}\nAnswer: {response}",
    "writer": {"name": "python_function", "function": "builders.real_builds:graded"},
}


@dataclass(frozen=True)
class Case:
    """One build. `media`: what its rows show; a clip that is copied is an answer and not a prompt."""

    media: str
    builder: Mapping[str, Any] = field(default_factory=dict)
    sections: Mapping[str, Any] = field(default_factory=dict)
    roles: frozenset[str] = BOTH


ONLY = frozenset({"chosen"})
HELPED: Mapping[str, Any] = {"helper": HELPER}
JUDGED: Mapping[str, Any] = {"judge": JUDGE}

CASES: dict[str, tuple[Case, ...] | str] = {
    "bdhs": (Case("photos", {"rho": 0.9, "encoder": None, "tries": 2}, roles=BOTH | {"bdhs"}),),
    "best_of_n": (
        Case("photos", {"n": 3}, JUDGED),
        Case("clips", {"n": 3}, JUDGED),
    ),
    "ha_dpo": (Case("photos", {"rewrites": 1, "len_ratio": [0.2, 5.0]}, HELPED),),
    "llava_hound": (Case("clips", {"n": 4}, {"judge": GRADER}),),
    "mia_dpo": (
        Case(
            "photos",
            {
                "layouts": ["sequence", "pic_in_pic"],
                "sequence": {"counts": [2, 3], "share": [1.0, 1.0]},
                "pic_in_pic": 1.0,
                "min_perplexity": 0.0,
                "len_ratio": [0.01, 100.0],
            },
        ),
    ),
    "partial_noise": (
        Case("painted photos", {"strength": 0.2}, JUDGED),
        Case("painted clips", {"strength": 0.5, "segments": 2}, JUDGED),
    ),
    "povid": (Case("photos", {"mistakes": 1}, HELPED),),
    "prompt_a_video": "its prompts are captions and its answers rewrites of them, both without media",
    "rank_and_sift": (Case("photos", {"n": 4}, JUDGED),),
    "re_align": (
        Case(
            "photos",
            {"refill": "complete", "encoder": None},
            HELPED,
            BOTH | {"chosen_retrieved"},
        ),
    ),
    "reward_topk": (Case("photos", {"per": "all", "share": 0.6}, JUDGED, ONLY),),
    "rlaif_v": (
        Case(
            "photos",
            {"n": 4, "ask": "{question}", "debias": False},
            HELPED,
        ),
    ),
    "style_rewrite": (Case("photos", {}, HELPED, ONLY),),
    "tpo": (
        Case("clips", {"views": ["comprehensive"], "questions": "written", "dense": 8, "sparse": 1}, HELPED),
    ),
    "videosavi": (Case("clips", {}, HELPED),),
}
"""Of every builder what is built, or why real media say nothing about it."""

ALL = [
    pytest.param(name, case, id=f"{name}-{case.media}".replace(" ", "-"))
    for name, cases in CASES.items()
    if not isinstance(cases, str)
    for case in cases
]


# ---------------------------------------------------------------- rows and models


@pytest.fixture(scope="module")
def given(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of rows, each with a last row whose photo or clip is cut off."""
    folder = tmp_path_factory.mktemp("real")
    pairs = [json.loads(line) for line in (test_data / "image_text/coco_caption_pairs.jsonl").open()]
    texts = {Path(one["image"]).stem: one for one in reversed(pairs)}
    for name in PHOTOS:
        shutil.copyfile(test_data / f"image_text/coco/{name}.jpg", folder / f"{name}.jpg")
    (folder / "cut.jpg").write_bytes((folder / f"{PHOTOS[0]}.jpg").read_bytes()[:9000])
    pairs = [json.loads(line) for line in (test_data / "video/video_text_pairs.jsonl").open()]
    texts |= {Path(one["video"]).stem: one for one in reversed(pairs)}
    for name in (*CLIPS, "truncated"):
        shutil.copyfile(test_data / f"video/{name}.mp4", folder / f"{name}.mp4")
    for kind, listed, end in (("image", (*PHOTOS, "cut"), ".jpg"), ("video", (*CLIPS, "truncated"), ".mp4")):
        asked, painted = [], []
        for name in listed:
            own = texts.get(name, texts[listed[0]])
            file = {"type": kind, kind: name + end}
            turn = {"role": "user", "content": [file, {"type": "text", "text": own["prompt"]}]}
            sides = {side: own[side] for side in ("chosen", "rejected")}
            asked.append({"id": name, "prompt": [turn], **sides})
            painted.append({"id": name, "prompt": own["chosen"], "completion": {kind: name + end}})
        word = {"image": "photos", "video": "clips"}[kind]
        for title, rows in ((word, asked), (f"painted {word}", painted)):
            (folder / f"{title}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Mapping[str, Any]]:
    """Sections of the models that are asked about such rows, or copy them."""
    tiny_families.FAMILIES["modelscope"](clips := tmp_path_factory.mktemp("modelscope"), 0)
    words = {"max_new_tokens": 8, "temperature": 1.0}
    steps = {"steps": 4, "guidance": 1.0}
    four = {"sampling": "uniform", "count": 4}
    return {
        "photos": {"adapter": "vlm", "path": str(SHIPPED / "vlm"), "generation": words},
        "clips": {
            "adapter": "video_lm", "path": str(SHIPPED / "video"), "generation": words, "frames": four
        },
        "painted photos": {"adapter": "diffusion", "path": str(SHIPPED / "image"), "generation": steps},
        "painted clips": {
            "adapter": "diffusion", "path": str(clips), "generation": steps, "resolution": 16,
            "frames": {"sampling": "leading", "count": 4, "fps": 8.0},
        },
    }  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def loaded_once() -> Iterator[None]:
    """Builds with the same section share their model."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    opened: dict[str, Answering] = {}
    load_model = _run.open_model

    def shared(config: _config.BuildConfig, *rest: Any) -> Answering:
        key = repr(config.model)
        if key not in opened:
            opened[key] = load_model(config, *rest)
        return opened[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_run, "open_model", shared)
        yield
    torch.set_num_threads(threads)


# ---------------------------------------------------------------- what was written


@dataclass(frozen=True)
class Written:
    """A row of a build: as it stands in the file, and as training reads it, its media decoded."""

    row: Mapping[str, Any]
    sample: PreferenceSample
    given: Path

    @property
    def made_of(self) -> str:
        return str(self.row["built"]["prompt_id"])

    def media(self, role: str) -> list[Any]:
        """What the prompt of a role shows."""
        turns = self.sample.examples[role][0].prompt
        return [part.data for turn in turns for part in turn.parts if part.kind != "text"]

    def photo(self, name: str) -> np.ndarray:
        """The pixels of a photo that was given."""
        with Image.open(self.given / f"{name}.jpg") as picture:
            return np.asarray(picture.convert("RGB"))


def own_photo(one: Written, output: Path) -> None:
    """Every role is shown the row's own photo; the similar one that a row names is shown where it belongs."""
    for role in one.sample.examples:
        name = one.row["built"]["retrieved"] if role == "chosen_retrieved" else one.made_of
        (shown,) = one.media(role)
        assert np.array_equal(np.asarray(shown), one.photo(name)), role


def among_several(one: Written, output: Path) -> None:
    """The row's own photo in its place between others, or another on a white square around it."""
    told, shown = one.row["built"], [np.asarray(picture) for picture in one.media("chosen")]
    if told["layout"] == "pic_in_pic":
        (whole,) = shown
        assert whole.shape[0] == whole.shape[1] and told["target"] == 1
        return
    places = [[i for i, name in enumerate(PHOTOS) if np.array_equal(p, one.photo(name))] for p in shown]
    assert len(shown) == told["pictures"] == len({place for (place,) in places}), "all different"
    assert PHOTOS[places[told["target"] - 1][0]] == one.made_of


def own_clip(one: Written, output: Path) -> None:
    """The row's own clip as its file was, read as four frames."""
    (part,) = (p for p in one.row["prompt"][0]["content"] if p["type"] == "video")
    assert (output / part["video"]).read_bytes() == (one.given / f"{one.made_of}.mp4").read_bytes()
    for role in one.sample.examples:
        (clip,) = one.media(role)
        assert len(clip.frames) == 4 and clip.total > 40 and clip.frames.float().std() > 10


def copies_of_photo(one: Written, output: Path) -> None:
    """Two copies that are not the same, and likest to their own photo."""
    sides = [one.sample.examples[side][0].response[0].data for side in ("chosen", "rejected")]
    assert sides[0].tobytes() != sides[1].tobytes()
    for side in sides:
        small = [ImageOps.fit(Image.fromarray(one.photo(name)), side.size) for name in PHOTOS]
        like = np.atleast_2d(
            np.corrcoef(np.stack([np.float32(picture).ravel() for picture in (side, *small)]))
        )[0, 1:]
        assert PHOTOS[like.argmax()] == one.made_of


def copies_of_clip(one: Written, output: Path) -> None:
    """Two copies that are not the same, and a label for either half of their time."""
    first, second = (one.sample.examples[side][0].response[0].data for side in ("chosen", "rejected"))
    assert len(first.frames) == len(second.frames) == 4 and not torch.equal(first.frames, second.frames)
    assert len(one.row["segments"]) == 2 and set(one.row["segments"]) <= {-1, 0, 1}


SHOWS: Mapping[str, Callable[[Written, Path], None]] = {
    "photos": own_photo,
    "clips": own_clip,
    "painted photos": copies_of_photo,
    "painted clips": copies_of_clip,
}


def answers(sample: PreferenceSample) -> list[Any]:
    """What tells the answers of roles apart, but for the retrieved one, which is the chosen one again."""
    parts = [one[0].response[0] for role, one in sample.examples.items() if role != "chosen_retrieved"]
    return [part.data if part.kind == "text" else id(part.data) for part in parts]


@pytest.mark.parametrize(("name", "case"), ALL)
def test_a_build_of_real_media(
    name: str, case: Case, given: Path, models: Mapping[str, Any], tmp_path: Path
) -> None:
    tree = {
        "builder": {"name": name, **case.builder},
        "model": models[case.media],
        "prompts": {"source": "jsonl", "path": str(given / f"{case.media}.jsonl"), "on_error": "skip"},
        "batch": 3,
        "log": {"progress": False},
        "output": str(tmp_path / "out"),
        **case.sections,
    }
    output = _run.build(_config.from_tree(tree, "test", allow_code=True), ALONE)
    record = json.loads((output / "build.json").read_text())
    rows = [json.loads(line) for line in (output / "pairs.jsonl").read_text().splitlines()]
    samples = list(load(Jsonl(path=str(output / "pairs.jsonl"))).samples)
    assert record["kept"]["pairs"] == len(rows) == len(samples) >= 1
    total = len(CLIPS if "clips" in case.media else PHOTOS) + 1
    whole = record["kept"]["prompts with pairs"] + record["left_out_in_all"]["prompts"]
    assert whole == record["prompts"]["count"] == total, record
    assert record["left_out"][BROKEN] == len(record["skipped"]) == 1, "the file that is cut off"
    shows = among_several if name == "mia_dpo" else SHOWS[case.media]
    for row, sample in zip(rows, samples, strict=True):
        one = Written(row, decode(sample, FRAMES), given)
        assert set(sample.examples) == case.roles
        assert len(set(answers(sample))) == len(case.roles - {"chosen_retrieved"}) and all(answers(sample))
        shows(one, output)
    used = {Path(name).name for name in _named(rows)}
    assert used == {path.name for path in (output / "media").iterdir()}


def _named(value: Any) -> list[str]:
    """Names of media files anywhere in rows."""
    if isinstance(value, str):
        return [value] if value.startswith("media/") else []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [name for one in inner for name in _named(one)]


def test_every_builder_is_built_here() -> None:
    """A builder that is new needs a case above."""
    missing = sorted(set(names(KINDS["builder"])) - set(CASES))
    assert not missing, f"no build on real media, nor a reason why there is none: {missing}"
    assert set(CASES) <= set(names(KINDS["builder"]))
