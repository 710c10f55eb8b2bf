"""Builds of whole rows from end to end: who writes, who judges, rows without answers, folders of frames."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from builders.builds import content
from PIL import Image
from torch import nn
from training.faults import ALONE, on_threads

from mmalign.builders import _run
from mmalign.builders._candidates import Asked
from mmalign.builders._config import BuildConfig, from_tree, identity
from mmalign.builders._left_out import NOTHING
from mmalign.builders._model import Answering, open_model
from mmalign.builders._new_rows import UNWRITABLE
from mmalign.builders._originals import BROKEN
from mmalign.builders._run import build
from mmalign.builders._whole_rows import NewRow, Remade, RowBuilder, Tools
from mmalign.clips import Frames
from mmalign.data._media import decode
from mmalign.data._sources import load
from mmalign.data.jsonl import Jsonl
from mmalign.rewards._scoring import score_all
from mmalign.types import Adapter, Message, Part, PreferenceSample, UserError
from mmalign.writing import Writer


def said(turns: tuple[Message, ...]) -> str:
    """The text of turns, media as their kinds."""
    return "".join(p.data if p.kind == "text" else f"<{p.kind}>" for turn in turns for p in turn.parts)


class Talker:
    """Answers with the question backwards; stands in for an adapter."""

    kind, frames, media = "exact", Frames(count=2), frozenset({"image", "video"})
    policy = nn.Linear(1, 1, bias=False).requires_grad_(False)

    def check(self, sample: PreferenceSample, roles: Sequence[str]) -> Sequence[str]:
        """Refuses the word wrong."""
        for role in roles:
            if any(part.data == "wrong" for part in sample.examples[role][0].response):
                raise UserError(f"{sample.origin}: role {role} is wrong")
        return ()

    def generate(
        self, model: nn.Module, prompts: Sequence[tuple[Message, ...]], seeds: Sequence[int]
    ) -> list[Part]:
        """The text of the prompt backwards."""
        return [Part("text", said(turns)[::-1]) for turns in prompts]

    def fingerprint(self) -> str:
        """Always the same."""
        return "talker"


@contextmanager
def talking() -> Iterator[nn.Module]:
    """The talker's switch."""
    yield Talker.policy


@pytest.fixture(autouse=True)
def talker(monkeypatch: pytest.MonkeyPatch) -> None:
    answering = Answering(Talker(), talking, {"path": "talker"})  # type: ignore[arg-type]
    monkeypatch.setattr(_run, "open_model", lambda *given: answering)


@dataclass(frozen=True)
class Loud(Writer):
    """A writer of a user's own: the question in capitals; none for one with the word secret."""

    mark: str = "!"
    parallel: int = 1
    asked: list[str] = field(default_factory=list)

    indifferent: ClassVar[frozenset[str]] = frozenset({"parallel"})

    def ready(self) -> None:
        """Raises UserError for a mark that is empty."""
        if not self.mark:
            raise UserError("helper.mark: is empty")

    def write(self, questions: Sequence[tuple[Message, ...]], seeds: Sequence[int]) -> list[str | None]:
        """Capitals."""
        return [None if "secret" in said(one) else said(one).upper() + self.mark for one in questions]


@dataclass(frozen=True)
class Long:
    """A judge of a user's own: how long an answer is."""

    reads = frozenset({"text"})

    def score(self, prompt: tuple[Message, ...], response: Part) -> Mapping[str, float]:
        """Its characters."""
        return {"score": float(len(response.data))}


@dataclass(frozen=True)
class Echo(RowBuilder):
    """A builder of a user's own: chosen is what the helper writes, rejected the row's answers joined."""

    blank: bool = False

    sides: ClassVar[tuple[str, ...]] = ("rejected",)
    asks_helper: ClassVar[Any] = "may"
    asks_judge: ClassVar[Any] = "may"
    asks_model: ClassVar[Any] = "may"

    def ready_for(self, adapter: Adapter) -> None:
        """Anything will do."""

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """One row each."""
        written = tools.helper.write([row.turns for row in rows], [seed] * len(rows))
        made = []
        for row, text in zip(rows, written, strict=True):
            if text is None:
                made.append(Remade())
                continue
            answers = [*row.original, *(part for side in row.sides.values() for part in side)]
            rejected = " " if self.blank else " ".join(part.data for part in answers)
            columns = {}
            if tools.judge is not None:
                columns["chosen_score"] = score_all(tools.judge, [row.turns], [Part("text", text)])[0][
                    "score"
                ]
            sides = {
                "chosen": Part("text", text),
                "rejected": Part("text", rejected),
            }
            made.append(Remade((NewRow("e", row.turns, sides, {}, columns),)))
        return made


@dataclass(frozen=True)
class Questions(RowBuilder):
    """A builder of a user's own: prompts alone, asked of a row's clip or picture."""

    copies: ClassVar[bool] = False
    asks_helper: ClassVar[Any] = "yes"
    asks_judge: ClassVar[Any] = True

    def ready_for(self, adapter: Adapter) -> None:
        """Anything will do."""

    def make(self, rows: Sequence[Asked], tools: Tools, seed: int) -> list[Remade]:
        """Two questions each."""
        assert all(not row.original and not row.sides for row in rows)
        return [Remade(tuple(self._asked(row, word) for word in ("What", "When"))) for row in rows]

    def _asked(self, row: Asked, word: str) -> NewRow:
        seen = [part for turn in row.turns for part in turn.parts if part.kind != "text"]
        return NewRow(word, (Message("user", (*seen, Part("text", f"{word}?"))),))


ROWS: list[dict[str, Any]] = [
    {"prompt": "one", "chosen": "good", "rejected": "bad"},
    {"prompt": [{"role": "user", "content": "two"}], "chosen": "good", "rejected": "bad"},
    {"prompt": "three", "completion": "alone"},
    {"prompt_chosen": "four", "prompt_rejected": "five", "chosen": "good", "rejected": "bad"},
    {"prompt": "six", "chosen": "good", "rejected": "wrong"},
    {"prompt": "secret", "chosen": "good", "rejected": "bad"},
]


def config(
    folder: Path, output: str, rows: Sequence[Mapping[str, Any]] = ROWS, **sections: Any
) -> BuildConfig:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": f"r{i}", **row}) + "\n" for i, row in enumerate(rows)))
    tree: dict[str, Any] = {
        "builder": "builders.test_whole_row_builds:Echo",
        "model": {"adapter": "video_lm", "path": "nowhere", "frames": {"count": 2}},
        "prompts": {"source": "jsonl", "path": str(path), "on_error": "skip"},
        "batch": 2,
        "log": {"progress": False},
        "output": str(folder / output),
    }
    return from_tree(tree | sections, "test", allow_code=True)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]


def record_of(folder: Path) -> Any:
    return json.loads((folder / "build.json").read_text())


LOUD = {"name": "builders.test_whole_row_builds:Loud", "mark": "?"}
LONG = "builders.test_whole_row_builds:Long"


def test_without_a_helper_the_model_writes(tmp_path: Path) -> None:
    folder = build(config(tmp_path, "out", seed=3), ALONE)
    found = rows_of(folder)
    assert [(row["chosen"], row["rejected"]) for row in found] == [
        ("eno", "good bad"),
        ("owt", "good bad"),
        ("eerht", "alone"),
        ("ruof", "good"),
        ("terces", "good bad"),
    ]
    assert "helper" not in found[0]["built"] and "chosen_score" not in found[0]
    assert {(row["built"]["seed"], row["built"]["prompt_id"]) for row in found} == {
        (3, row["id"].partition("/")[0]) for row in found
    }, "what was drawn for a row follows from these two"
    record = record_of(folder)
    assert record["left_out"] == {BROKEN: 1} and "role rejected is wrong" in record["skipped"][0]
    assert [sample.id for sample in load(Jsonl(path=str(folder / "pairs.jsonl"))).samples] == [
        row["id"] for row in found
    ]


def test_a_helper_writes_and_a_judge_is_handed_on(tmp_path: Path) -> None:
    given = config(tmp_path, "out", helper=LOUD, judge=LONG)
    folder = build(given, ALONE)
    found = rows_of(folder)
    assert [row["chosen"] for row in found] == ["ONE?", "TWO?", "THREE?", "FOUR?"]
    assert [row["chosen_score"] for row in found] == [4.0, 4.0, 6.0, 5.0]
    assert record_of(folder)["helper"] == found[0]["built"]["helper"] == {**LOUD, "parallel": 1, "asked": []}
    assert identity(given) != identity(config(tmp_path, "out", helper={**LOUD, "mark": "."}, judge=LONG))
    with pytest.raises(UserError, match="holds a build of another config .helper was"):
        build(config(tmp_path, "out", helper={**LOUD, "mark": "."}, judge=LONG), ALONE)
    before = content(folder)
    build(config(tmp_path, "out", helper={**LOUD, "parallel": 8}, judge=LONG), ALONE)
    assert content(folder) == before, "how a helper is asked makes no other build"
    two = on_threads(2, lambda world: build(config(tmp_path, "two", helper=LOUD, judge=LONG), world))
    assert two == [tmp_path / "two"] * 2
    assert content(tmp_path / "two")["pairs.jsonl"] == content(folder)["pairs.jsonl"]


def test_where_a_helper_writes_all_no_model_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_model = build(config(tmp_path, "with", helper=LOUD), ALONE)
    monkeypatch.setattr(_run, "open_model", open_model)
    folder = build(config(tmp_path, "out", helper=LOUD, model=None), ALONE)
    ours, theirs = ([{**row, "built": None} for row in rows_of(one)] for one in (folder, with_model))
    without = [row for row in ours if row["id"] != "r4/e"]  # which the talker finds too long
    assert without == theirs and len(ours) == len(theirs) + 1
    assert "model" not in rows_of(folder)[0]["built"] and record_of(folder)["model"] == {}
    whole = content(folder)
    (folder / "pairs.jsonl").unlink()
    running = {**record_of(folder), "status": "running"}
    (folder / "build.json").write_text(json.dumps(running))
    build(config(tmp_path, "out", helper=LOUD, model=None), ALONE)
    assert content(folder)["pairs.jsonl"] == whole["pairs.jsonl"]


def test_a_row_that_would_be_read_otherwise_is_counted(tmp_path: Path) -> None:
    builder = {"name": "builders.test_whole_row_builds:Echo", "blank": True}
    folder = build(config(tmp_path, "out", builder=builder), ALONE)
    record = record_of(folder)
    assert rows_of(folder) == [] and record["left_out"] == {BROKEN: 1, UNWRITABLE: 5, NOTHING: 5}
    assert record["left_out_in_all"] == {"prompts": 6, "pairs": 5}


@pytest.mark.parametrize(
    ("sections", "told"),
    [
        ({"helper": {**LOUD, "mark": ""}}, "helper.mark: is empty"),
        ({"helper": "nobody"}, "no writer is called 'nobody'"),
        ({"helper": LOUD, "builder": "mia_dpo"}, "helper: builder mia_dpo asks none; leave the section out"),
        ({"helper": LOUD, "builder": "best_of_n", "judge": LONG}, "helper: builder best_of_n asks none"),
        ({"builder": "builders.test_whole_row_builds:Questions", "judge": LONG}, "section helper is missing"),
        ({"builder": "builders.test_whole_row_builds:Questions", "helper": LOUD}, "section judge is missing"),
        ({"model": None}, "model: give model or run, or a helper, who makes do without"),
        ({"run": "runs/x"}, "model: give exactly one of model and run"),
        (
            {
                "builder": "builders.test_whole_row_builds:Questions",
                "judge": LONG,
                "helper": LOUD,
                "model": None,
            },
            "model: give exactly one of model and run",
        ),
        ({"judge": "brightness"}, "judge: brightness reads pictures and clips, and this model makes"),
        ({"model": {"adapter": "diffusion", "path": "x"}}, "makes pairs of written answers, which adapter"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, sections: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError, match=told):
        build(config(tmp_path, "out", **sections), ALONE)
    assert not (tmp_path / "out").exists()


def test_code_of_a_helper_is_refused_unless_allowed(tmp_path: Path) -> None:
    tree = {"builder": "mmalign.builders.mia_dpo:MiaDpo", "helper": LOUD, "prompts": "p.txt", "run": "x"}
    with pytest.raises(UserError, match="helper: builders.test_whole_row_builds:Loud would import code"):
        from_tree(tree, "test")


# ---------------------------------------------------------------- prompts alone


def test_prompts_of_folders_of_frames(tmp_path: Path) -> None:
    for name, count in (("a", 5), ("b", 4), ("c", 3)):
        (tmp_path / name).mkdir()
        for number in range(count):
            Image.new("RGB", (8, 6), (0, 40 * number, 0)).save(tmp_path / name / f"{number}.png")
    Image.new("RGB", (4, 4)).save(tmp_path / "b" / "1.png")  # not among the frames that the model sees
    (tmp_path / "c" / "0.png").write_bytes(b"none")
    rows = [{"prompt": "<video>\nDescribe.", "videos": [{"path": name, "fps": 2.0}]} for name in "abc"]
    asks: dict[str, Any] = {
        "builder": "builders.test_whole_row_builds:Questions",
        "helper": LOUD,
        "judge": LONG,
    }
    folder = build(config(tmp_path, "out", rows, **asks), ALONE)
    record = record_of(folder)
    assert record["left_out"] == {BROKEN: 2} and record["kept"] == {"pairs": 2, "prompts with pairs": 1}
    assert "frame '0.png'" in record["skipped"][1] and "different sizes" in record["skipped"][0]
    samples = load(Jsonl(path=str(folder / "pairs.jsonl")), prompts=True).samples
    assert [sample.id for sample in samples] == ["r0/What", "r0/When"]
    for sample in samples:
        (turn,) = decode(sample, Frames(count=16)).examples["prompt"][0].prompt
        assert turn.parts[0].data.rate == pytest.approx(2.0)
        assert turn.parts[0].data.frames[:, 1, 0, 0].tolist() == [0, 40, 80, 120, 160]
    assert len(list((folder / "media").iterdir())) == 1
    stop = {"prompts": {"source": "jsonl", "path": str(tmp_path / "rows.jsonl")}}
    with pytest.raises(UserError, match=r"row 3, video 'c': frame '0\.png'"):
        build(config(tmp_path, "stopped", rows, **asks, **stop), ALONE)


def test_prompts_of_a_file_are_enough(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("what is it?\nwho is it?\n")
    asks: dict[str, Any] = {
        "builder": "builders.test_whole_row_builds:Questions",
        "helper": LOUD,
        "judge": LONG,
    }
    folder = build(config(tmp_path, "out", prompts=str(tmp_path / "prompts.txt"), **asks), ALONE)
    assert [row["prompt"][0]["content"] for row in rows_of(folder)] == ["What?", "When?"] * 2
    with pytest.raises(UserError, match="reads the answers of a data source; name one"):
        build(config(tmp_path, "other", prompts=str(tmp_path / "prompts.txt")), ALONE)
