"""CHAIR: words of captions to objects, and counts of them against what a picture shows."""

import json
from pathlib import Path

import pytest

from mmalign.metrics._coco import categories, lexicon, objects_in
from mmalign.metrics._lexicon import plural_of, singular_of
from mmalign.metrics._resampling import figures
from mmalign.metrics.chair import Chair
from mmalign.types import UserError


def named(caption: str) -> list[str]:
    return [name for _, name in objects_in(caption)]


def coco(folder: Path, shown: dict[int, list[str]], captions: dict[int, list[str]] | None = None) -> Chair:
    names = {name: number for number, name in enumerate(categories(), 1)}
    marks = [{"image_id": i, "category_id": names[name]} for i, listed in shown.items() for name in listed]
    images = [{"id": i, "file_name": f"{i:012d}.jpg"} for i in shown]
    listed = [{"id": number, "name": name} for name, number in names.items()]
    tree = {"images": images, "annotations": marks, "categories": listed}
    (folder / "instances.json").write_text(json.dumps(tree))
    told = [{"image_id": i, "caption": text} for i, texts in (captions or {}).items() for text in texts]
    (folder / "captions.json").write_text(json.dumps({"annotations": told}))
    return Chair(str(folder / "instances.json"), str(folder), str(folder / "captions.json"))


def values(metric: Chair, answers: dict[str, str]) -> dict[str, float | None]:
    return {name: figure.value for name, figure in figures(metric, metric.grade(answers)).items()}


def test_worked_values(tmp_path: Path) -> None:
    """7 mentions, 2 wrong, in 1 of 2 captions, 5 of 8 true objects named."""
    metric = coco(tmp_path, {1: ["dog", "cat", "car", "bus"], 2: ["person", "cup", "fork", "pizza"]})
    answers = {"1": "A dog and a cat; a kite over a bird.", "2": "A man with a cup eats pizza."}
    found = values(metric, answers)
    assert found["chair_i"] == pytest.approx(0.285714, abs=1e-6)
    assert found["chair_s"] == 0.5 and found["recall"] == 0.625


@pytest.mark.parametrize(
    ("caption", "objects"),
    [
        ("Two puppies chase a kitten.", ["dog", "cat"]),
        ("A hot dog beside a dog", ["hot dog", "dog"]),
        ("a teddy bear, no bear", ["teddy bear", "bear"]),
        (
            "People on motor bikes and buses; mice and knives",
            ["person", "motorcycle", "bus", "mouse", "knife"],
        ),
        ("A baby elephant with an adult elephant", ["elephant", "elephant"]),
        ("a baby and a baby giraffe", ["person", "giraffe"]),
        ("A passenger train and a passenger jet", ["train", "airplane"]),
        ("Train tracks lead to the horizon past home plate", []),
        ("The seat of the toilet is up", ["toilet"]),
        ("A toilet seat", ["toilet"]),
        ("A seat by the window", ["chair"]),
        ("A wine glass near two wine glasses", ["wine glass", "wine glass"]),
        ("The man's cell-phone", ["person", "cell phone"]),
        ("Scissors and skis and sheep", ["scissors", "skis", "sheep"]),
        ("A carpet, a category, and the business of caring", []),  # whole words only
        ("", []),
    ],
)
def test_words_to_objects(caption: str, objects: list[str]) -> None:
    assert named(caption) == objects


def test_every_category_is_found_by_its_name_and_its_plural(test_data: Path) -> None:
    assert len(categories()) == len(set(categories())) == 80
    assert sorted(categories()) == json.loads((test_data / "image_text" / "coco_categories.json").read_text())
    for name in categories():
        assert named(f"There is a {name}.") == [name]
        *head, last = name.split()
        assert named(" ".join([*head, plural_of(last)])) == [name]
    assert all(set(phrase) <= set("abcdefghijklmnopqrstuvwxyz ") for phrase in lexicon().phrases)


def test_captions_add_to_what_is_there(tmp_path: Path) -> None:
    with_words = coco(tmp_path, {1: ["dog"]}, {1: ["A dog on a sofa", "a puppy"], 9: ["a zebra"]})
    alone = Chair(with_words.instances, with_words.images)
    said = {"1": "A dog on a couch."}
    assert values(with_words, said)["chair_i"] == 0 and values(alone, said)["chair_i"] == 0.5
    assert alone.grade(said)[0].shown["wrong"] == [["couch", "couch"]]


def test_repeats_count_each_time(tmp_path: Path) -> None:
    found = values(coco(tmp_path, {1: ["dog"]}), {"1": "A kite, a kite, and a dog and a dog."})
    assert found == {"chair_i": 0.5, "chair_s": 1.0, "recall": 1.0}


def test_no_mention_has_no_share(tmp_path: Path) -> None:
    assert values(coco(tmp_path, {1: ["dog"]}), {"1": "Nothing."}) == {
        "chair_i": None,
        "chair_s": 0,
        "recall": 0,
    }


def test_chosen_pictures_and_refusals(tmp_path: Path) -> None:
    metric = coco(tmp_path, {1: ["dog"], 2: [], 3: ["cat"]})
    (tmp_path / "ids.json").write_text("[3, 1]")
    some = Chair(metric.instances, metric.images, ids=str(tmp_path / "ids.json"))
    assert [one.id for one in some.ask()] == ["3", "1"] and len(metric.ask()) == 3
    (tmp_path / "ids.json").write_text("[4]")
    with pytest.raises(UserError, match="has no picture 4"):
        Chair(metric.instances, metric.images, ids=str(tmp_path / "ids.json")).ask()
    (tmp_path / "bad.json").write_text('{"images": []}')
    with pytest.raises(UserError, match="a list 'annotations' is missing"):
        Chair(str(tmp_path / "bad.json"), "photos").ask()


def test_singulars() -> None:
    said = ["buses", "glasses", "puppies", "people", "vases", "boxes", "grass", "bus", "sheep", "gas"]
    assert [singular_of(one) for one in said] == [
        *("bus", "glass", "puppy", "person", "vase", "box", "grass", "bus", "sheep", "gas"),
    ]


def test_true_captions_of_real_photos(test_data: Path, tmp_path: Path) -> None:
    """People's own captions name few objects that are not marked."""
    rows = [
        json.loads(line) for line in (test_data / "image_text" / "coco_photos.jsonl").read_text().splitlines()
    ]
    metric = coco(tmp_path, {row["coco_id"]: list(row["objects"]) for row in rows})
    own = values(metric, {str(row["coco_id"]): row["captions"][0] for row in rows})
    other = values(
        metric, {str(a["coco_id"]): b["captions"][0] for a, b in zip(rows, rows[1:] + rows[:1], strict=True)}
    )
    assert own["chair_i"] is not None and other["chair_i"] is not None
    assert own["chair_i"] < 0.3 < other["chair_i"]
