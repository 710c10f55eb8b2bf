"""Answers are kept as they come: a killed evaluation goes on, and nothing is generated twice."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from mmalign.clips import Clip, Frames
from mmalign.data._paths import File, RatedFile
from mmalign.data._video_parts import CutFile
from mmalign.evaluation._media_content import MediaContent
from mmalign.evaluation.asking import Asker, Side
from mmalign.metrics._changes import changed
from mmalign.metrics._reading import asked, medium
from mmalign.metrics._seam import Question
from mmalign.types import Message, Part, UserError


class Echo:
    """Answers with the prompt's words, and dies after so many."""

    def __init__(self, lives: int = 10**6, kind: str = "text") -> None:
        self.lives, self.heard, self.kind = lives, list[str](), kind

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        found = []
        for turns in prompts:
            if len(self.heard) == self.lives:
                raise KeyboardInterrupt
            self.heard.append(turns[0].parts[-1].data)
            found.append(Part(self.kind, "said " + self.heard[-1]))  # type: ignore[arg-type]
        return found


@contextmanager
def model() -> Iterator[nn.Module]:
    yield nn.Identity()


def side(step: int = 1) -> Side:
    return Side("tuned", {"step": step}, model)


QUESTIONS = [Question(str(i), asked(f"word {i}\n\u2028\ud800"), "quiz") for i in range(10)]


def test_a_killed_evaluation_goes_on(tmp_path: Path) -> None:
    first = Echo(lives=5)
    with pytest.raises(KeyboardInterrupt):
        Asker(first, None, tmp_path, 2, 0).answers(side(), QUESTIONS)
    path = tmp_path / "evaluation" / "metrics" / "quiz" / "answers.tuned.jsonl"
    with path.open("a") as file:
        file.write('{"id": "4", "asked": "x", "ans')  # a line that was being written
    again, told = Echo(), list[str]()
    found = Asker(again, None, tmp_path, 2, 0, told.append).answers(side(), QUESTIONS)
    assert found == {one.id: "said " + one.turns[0].parts[0].data for one in QUESTIONS}
    assert again.heard == [one.turns[0].parts[0].data for one in QUESTIONS[4:]]
    assert told == ["quiz: 4 of 10 answers of tuned are kept"]
    silent = Echo(lives=0)
    assert Asker(silent, None, tmp_path, 3, 0, told.append).answers(side(), QUESTIONS) == found
    rows = [json.loads(line) for line in path.read_text(errors="surrogatepass").split("\n")[:-1]]
    assert len(rows) == 11 and rows[0] == {"mmalign": "answers", "side": "tuned", "seed": 0, "step": 1}


def test_other_weights_other_answers(tmp_path: Path) -> None:
    Asker(Echo(), None, tmp_path, 4, 0).answers(side(), QUESTIONS)
    again, told = Echo(), list[str]()
    Asker(again, None, tmp_path, 4, 0, told.append).answers(side(step=2), QUESTIONS)
    assert len(again.heard) == 10 and "other weights, settings or another seed" in told[0]


def test_a_changed_question_is_asked_again(tmp_path: Path) -> None:
    Asker(Echo(), None, tmp_path, 4, 0).answers(side(), QUESTIONS[:3])
    other = Question("1", asked("another"), "quiz")
    again = Echo()
    found = Asker(again, None, tmp_path, 4, 0).answers(side(), [QUESTIONS[0], other])
    assert again.heard == ["another"] and found["1"] == "said another"


def seen(folder: Path, name: str) -> Question:
    suffix = "bmp" if (folder / f"{name}.bmp").exists() else "png"
    return Question(name, asked(medium("image", str(folder), f"{name}.{suffix}"), f"about {name}"), "seeing")


def heard(run: Path, *questions: Question) -> list[str]:
    """What a model is asked of these, given what is kept in a run folder."""
    echo = Echo()
    Asker(echo, Frames(count=2), run, 4, 0, lambda line: None).answers(side(), questions)
    return echo.heard


def test_another_picture_of_the_same_name_is_asked_about(tmp_path: Path) -> None:
    """As in another folder of them, if its file is as large; the same one elsewhere is not."""
    folders = [tmp_path / name for name in ("red", "blue")]
    for folder in folders:
        folder.mkdir()
        Image.new("RGB", (4, 4), folder.name).save(folder / "a.bmp")
        Image.new("RGB", (4, 4), "red").save(folder / "b.bmp")
    assert len({path.stat().st_size for folder in folders for path in folder.iterdir()}) == 1
    red, blue = ([seen(folder, "a"), seen(folder, "b")] for folder in folders)
    assert heard(tmp_path, *red) == ["about a", "about b"]
    assert heard(tmp_path, *blue) == ["about a"] and heard(tmp_path, *blue, *red) == []
    moved = folders[0].rename(tmp_path / "moved")
    assert heard(tmp_path, seen(moved, "a"), seen(moved, "b")) == []
    (moved / "a.bmp").rename(moved / "c.bmp")  # two files change their names
    (moved / "b.bmp").rename(moved / "a.bmp")
    (moved / "c.bmp").rename(moved / "b.bmp")
    assert heard(tmp_path, seen(moved, "a")) == []  # both are red
    Image.new("RGB", (4, 4), "green").save(moved / "a.bmp")
    assert heard(tmp_path, seen(moved, "a")) == ["about a"]


def test_frames_count_in_their_order(tmp_path: Path) -> None:
    place = tmp_path / "clip"
    place.mkdir()
    for number, colour in enumerate(("red", "blue", "green")):
        Image.new("RGB", (4, 4), colour).save(place / f"{number}.bmp")

    def shown(file: File) -> Question:
        return Question("q", asked(Part("video", file), "what?"), "clips")

    whole = shown(File(str(tmp_path), "clip"))
    assert heard(tmp_path, whole) == ["what?"] and heard(tmp_path, whole) == []
    for number in (2, 1, 0):
        (place / f"{number}.bmp").rename(place / f"{number + 7}.bmp")
    assert heard(tmp_path, whole) == []  # the same frames in the same order
    (place / "7.bmp").rename(place / "99.bmp")
    assert heard(tmp_path, whole) == ["what?"]
    root = str(tmp_path)
    for other in (RatedFile(root, "clip", 9.0), CutFile(root, "clip", 0.04), CutFile(root, "clip", 0, 0.05)):
        assert heard(tmp_path, shown(other)) == ["what?"] and heard(tmp_path, shown(other)) == []


def test_a_file_is_read_again_only_when_it_changed(tmp_path: Path) -> None:
    picture, kept = tmp_path / "a.bmp", tmp_path / "media.json"
    Image.new("RGB", (4, 4), "red").save(picture)
    file = File(str(tmp_path), "a.bmp")
    first = MediaContent(kept)
    found = first.shown(file)
    first.save()
    assert not kept.exists()  # it was written just now, and may be again within a tick of its clock
    os.utime(picture, (10**9, 10**9))
    again = MediaContent(kept)
    assert again.shown(file) == found
    again.save()
    ((path, (state, _)),) = json.loads(kept.read_text()).items()
    kept.write_text(json.dumps({path: [state, "known"]}))
    assert MediaContent(kept).shown(file) == (False, "known", None)  # nothing was read
    Image.new("RGB", (4, 4), "blue").save(picture)
    os.utime(picture, (10**9, 10**9))
    assert MediaContent(kept).shown(file) not in (found, (False, "known", None))
    picture.unlink()
    assert MediaContent(kept).shown(file) == (True, "a.bmp", None)
    for broken in ("{", "[]", '{"a": 3}'):
        kept.write_text(broken)
        assert MediaContent(kept).shown(file) == (True, "a.bmp", None)


def test_a_picture_that_cannot_be_read_is_named_with_its_question(tmp_path: Path) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    echo, both = Echo(), [seen(tmp_path, "a"), seen(tmp_path, "b")]
    told = "^seeing: question 'b', image 'b.png': the picture is broken.*; the answers before it are kept$"
    with pytest.raises(UserError, match=told):
        Asker(echo, None, tmp_path, 1, 0).answers(side(), both)
    Image.new("RGB", (4, 4)).save(tmp_path / "b.png")
    Asker(echo, None, tmp_path, 1, 0).answers(side(), both)
    assert echo.heard == ["about a", "about b"]


def test_pictures_are_no_answers(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="quiz: question '0' was answered by a image; metrics read texts"):
        Asker(Echo(kind="image"), None, tmp_path, 4, 0).answers(side(), QUESTIONS)


def test_frames_are_shuffled_alike_every_time() -> None:
    frames = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 2, 2)
    clip = Clip(frames, tuple(range(6)), tuple(map(float, range(6))), 1.0, 6, "memory")
    turns = asked(Part("video", clip), "What happens?")
    one, same, other = (changed("shuffled_frames", turns, seed, "7") for seed in (0, 0, 1))
    orders = [t[0].parts[0].data.frames[:, 0, 0, 0].tolist() for t in (one, same, other)]
    assert orders[0] == orders[1] != orders[2] and sorted(orders[0]) == list(range(6)) != orders[0]
    assert one[0].parts[0].data.seconds == clip.seconds and changed("", turns, 0, "7") == turns
    alone = asked(Part("video", clip.taken([0])), "What happens?")
    with pytest.raises(UserError, match="^prompt '7': a clip shows one frame, which has no other order"):
        changed("shuffled_frames", alone, 0, "7")
