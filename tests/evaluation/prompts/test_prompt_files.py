"""Prompt files in the form their benchmarks publish: what is read, told apart and refused."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmalign._evaluation import Evaluation, evaluation_from, evaluation_tree, prompt_file
from mmalign._names import KINDS, class_of, names
from mmalign.evaluation.prompts._rows import Asked, PromptFile, spread
from mmalign.evaluation.questions import questions
from mmalign.types import Message, Part, UserError

PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "a fox\tAnimals\tBasic\t\n"
    'A sign that says "Deep Learning"\tArtifacts\tWriting & Symbols\tfrom a paper\n'
    "a fox\tAnimals\tSimple Detail\t\n"
)
GENEVAL = (
    '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}\n'
    '{"tag": "counting", "include": [{"class": "cow", "count": 2}], '
    '"exclude": [{"class": "cow", "count": 3}], "prompt": "a photo of two cows"}\n'
)
VBENCH = [
    {"prompt_en": "a person swims", "dimension": ["subject_consistency", "motion_smoothness"]},
    {
        "prompt_en": "a red bird",
        "dimension": ["color"],
        "auxiliary_info": {"color": {"color": "red"}},
    },
    {"prompt_en": "salt is poured into water", "dimension": "Material", "auxiliary_info": ["Does it?"]},
]


def hpsv2(folder: Path) -> Path:
    folder.mkdir()
    for style in ("anime", "concept-art", "paintings", "photo"):
        (folder / f"{style}.json").write_text(json.dumps([f"a cat, {style}", f"a dog, {style}"]))
    return folder


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A small file of every form, by name."""
    found = {
        "parti": tmp_path / "PartiPrompts.tsv",
        "geneval": tmp_path / "evaluation_metadata.jsonl",
        "vbench": tmp_path / "VBench_full_info.json",
        "lines": tmp_path / "mine.txt",
    }
    found["parti"].write_text(PARTI)
    found["geneval"].write_text(GENEVAL)
    found["vbench"].write_text(json.dumps(VBENCH, indent=4))
    found["lines"].write_text("a fox\n\n  a red box \r\na fox\n")
    return found | {"hpsv2": hpsv2(tmp_path / "benchmark")}


def read(path: Path, name: str | None = None) -> list[Asked]:
    tree: dict[str, Any] = {"path": str(path)} | ({"name": name} if name else {})
    file: PromptFile = prompt_file(tree, "test")
    return file.read()


def test_every_form_is_told_from_the_file_and_by_one_form_only(files: dict[str, Path]) -> None:
    assert set(names(KINDS["prompts"])) == set(files)
    for name, path in files.items():
        assert [n for n in files if class_of(KINDS["prompts"], n).fits(path)] == [name]  # type: ignore[attr-defined]
        assert read(path) == read(path, name)


def test_parti(files: dict[str, Path]) -> None:
    fox, sign = read(files["parti"])
    assert (fox.id, fox.text) == ("parti-0002", "a fox")
    assert fox.groups == {"category": ("Animals",), "challenge": ("Basic", "Simple Detail")}
    assert sign.text == 'A sign that says "Deep Learning"'
    assert sign.groups["challenge"] == ("Writing & Symbols",)


def test_hpsv2_and_one_of_its_styles(files: dict[str, Path]) -> None:
    rows = read(files["hpsv2"])
    assert len(rows) == 8 and rows[2] == Asked(
        "concept-art-0001", "a cat, concept-art", {"style": ("concept-art",)}
    )
    assert read(files["hpsv2"] / "photo.json") == rows[6:]


def test_geneval(files: dict[str, Path]) -> None:
    assert read(files["geneval"]) == [
        Asked("geneval-0001", "a photo of a bench", {"tag": ("single_object",)}),
        Asked("geneval-0002", "a photo of two cows", {"tag": ("counting",)}),
    ]


def test_vbench_in_its_three_forms(files: dict[str, Path], tmp_path: Path) -> None:
    swims, bird, salt = read(files["vbench"])
    assert swims.groups == {"dimension": ("subject_consistency", "motion_smoothness")}
    assert bird.groups == {"dimension": ("color",)} and salt.groups == {"dimension": ("Material",)}
    folder = tmp_path / "prompts_per_dimension"
    folder.mkdir()
    (folder / "color.txt").write_text("a red bird\na green cup\n")
    (folder / "object_class.txt").write_text("a green cup\n")
    (folder / "all_dimension.txt").write_text("a green cup\n")
    cup, red = read(folder)
    assert cup.groups == {"dimension": ("color", "object_class")} and cup.text == "a green cup"
    assert red == Asked("color-0001", "a red bird", {"dimension": ("color",)})
    assert len(read(folder / "color.txt", "vbench")) == 2


def test_lines(files: dict[str, Path]) -> None:
    assert read(files["lines"]) == [Asked("line-0001", "a fox", {}), Asked("line-0003", "a red box", {})]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("parti", "Prompt\tCategory\na\tb\n", "row 1: must name the column Challenge"),
        ("parti", PARTI + "a box\tArtifacts\n", "row 5: must have 4 cells, tabs between, got 2"),
        ("parti", PARTI + "\tArtifacts\tBasic\t\n", "row 5: Prompt must be a text that is not empty, got ''"),
        ("parti", PARTI.split("\n")[0], "holds no prompt"),
        ("hpsv2", '["a", 3]', "row 2: the prompt must be a text that is not empty, got 3"),
        ("hpsv2", '{"anime": []}', "must hold a list of prompts, got dict"),
        ("hpsv2", '["a",\n b]', "line 2: not JSON"),
        (
            "geneval",
            GENEVAL + '{"tag": "x", "prompt": "y"}',
            "row 3: must be an object with tag, include, prompt; inc",
        ),
        ("geneval", GENEVAL + "{", "row 3: not JSON"),
        ("geneval", '{"tag": "x", "include": 1, "prompt": "y"}', "row 1: include must be a list"),
        (
            "vbench",
            '[{"prompt_en": "x", "dimension": []}]',
            "row 1: dimension must be a name or a list of names",
        ),
        ("vbench", '[{"prompt": "x"}]', "row 1: must be an object with prompt_en and dimension"),
        ("lines", "\n \n", "holds no prompt"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / ("f.json" if name in ("hpsv2", "vbench") else "f.txt")
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read(path, name)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_refusals_of_the_section(tmp_path: Path, files: dict[str, Path]) -> None:
    (tmp_path / "odd.csv").write_text("a,b\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for value, message in (
        (str(tmp_path / "none.txt"), "test.path: there is no file"),
        ({"path": str(tmp_path / "odd.csv")}, "cannot tell the form of .*; add name: geneval, hpsv2"),
        ({"name": "party", "path": "x"}, "did you mean parti"),
        ({"name": "parti", "path": " "}, "path: must name a file"),
        ({"name": "parti", "path": "x", "columns": 3}, "unknown key columns"),
        ({"name": "parti"}, "required"),
    ):
        with pytest.raises(UserError, match=message):
            prompt_file(value, "test")
    with pytest.raises(UserError, match="latin.txt: is not text in UTF-8"):
        read(tmp_path / "latin.txt")
    with pytest.raises(UserError, match="benchmark: photo.json is missing"):
        (files["hpsv2"] / "photo.json").unlink()
        read(files["hpsv2"], "hpsv2")


def test_the_section_names_the_form_it_told(files: dict[str, Path]) -> None:
    section = evaluation_from({"prompts": str(files["parti"]), "levels": 0}, "test", False)
    tree = evaluation_tree(section)
    assert tree["prompts"] == {"name": "parti", "path": str(files["parti"])} and tree["judge"] is None
    files["parti"].unlink()  # a stored config is read without the file
    assert evaluation_from(tree, "test", False) == section
    assert evaluation_tree(Evaluation())["prompts"] is None


def test_questions_are_spread_over_the_file() -> None:
    rows = [Asked(str(i), f"p{i}", {"half": (str(i // 5),)}) for i in range(10)]
    assert [row.id for row in spread(rows, 4)] == ["0", "2", "5", "7"]
    assert spread(rows, None) == spread(rows, 10) == spread(rows, 99) == rows
    asked, groups = questions(rows, 2, "surrogate")
    assert asked == [
        ("0", (Message("text", (Part("text", "p0"),)),)),
        ("5", (Message("text", (Part("text", "p5"),)),)),
    ]
    assert groups == {"0": {"half": ("0",)}, "5": {"half": ("1",)}}
    assert questions(rows, 1, "exact")[0][0][1][0].speaker == "user"


@pytest.mark.parametrize(
    ("file", "name", "count", "group", "members"),
    [
        ("parti_prompts.tsv", "parti", 1632, ("category", "Animals"), 314),
        ("geneval_metadata.jsonl", "geneval", 553, ("tag", "single_object"), 80),
        ("vbench_full_info.json", "vbench", 927, ("dimension", "human_action"), 95),
    ],
)
def test_the_published_files(
    test_data: Path, file: str, name: str, count: int, group: tuple[str, str], members: int
) -> None:
    # two of the 929 rows of VBench repeat a prompt
    path = test_data / "diffusion" / file
    assert read(path) == read(path, name)
    rows = read(path)
    assert len(rows) == count
    assert sum(group[1] in row.groups.get(group[0], ()) for row in rows) == members
