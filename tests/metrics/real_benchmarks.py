"""Every benchmark of pictures in its own form, small, about real photos: what is asked, a file of answers as
the benchmark has them, and the values that follow from these. Those of clips stand beside it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metrics.real_media import Place

from mmalign.metrics._coco import categories
from mmalign.rewards._findings import ERRORS
from mmalign.types import Message

ZEBRA = "zebra"  # is in none of the photos
POPE_PHOTO = "COCO_val2014_000000542145.jpg"  # one of the photos that POPE itself asks about


@dataclass(frozen=True)
class Bench:
    """`section`: the metric as a config has it. `last`: a file that the last questions show and no others.
    `answers`: a file of somebody's answers, some of them wrong, and `worth` what these are worth. `cut`: what
    stands in place of that last file when it is broken; empty: half of it."""

    section: Mapping[str, Any]
    last: Path
    answers: str
    worth: Mapping[str, float] = field(default_factory=dict)
    cut: bytes = b""


def judge(name: str = "llm_judge") -> dict[str, Any]:
    """A judge whose verdicts are written by `graded`."""
    writer = {"name": "python_function", "function": "metrics.real_benchmarks:graded"}
    return {"name": name, "writer": writer}


_MARKS = {  # the right answer and the one given, as metrics ask -> a verdict of each kind
    r'Right answer: (.+)\nEnd with "Rating: " and the number\.\nThe model\'s answer: (.*)': "Rating: {6}",
    r"Right answer: (.+)\nAnswer: (.*)\nGive your reasons": "Final Score: {1}",
    r"\nAnswer: (.+)\nThe description: (.*)\nGive your reasons": "Final Score: {1}",
}


def graded(turns: tuple[Message, ...], seed: int) -> str:
    """The best mark for an answer that has the right one in it and 0 for another; none for an empty one."""
    assert all(part.kind == "text" for turn in turns for part in turn.parts), "judges see no media"
    text = "".join(part.data for part in turns[-1].parts)
    if "[Matched Findings]" in text:
        right, said = re.findall(r"^(?:Reference|Candidate): (.*)$", text, re.MULTILINE)[:2]
        errors = "".join(f"({letter}) {kind}: {{}}\n" for letter, kind in ERRORS.items())
        some = "[Clinically Significant Errors]:\n" + errors.format(int(right != said), *[0] * 5)
        none = "[Clinically Insignificant Errors]:\n" + errors.format(*[0] * 6)
        return f"{some}\n{none}\n[Matched Findings]: {int(right == said)}."
    for pattern, form in _MARKS.items():
        if found := re.search(pattern, text, re.DOTALL):
            right, said = found[1].strip(), found[2].strip()
            best = right in said
            return re.sub(r"\{(\d)\}", r"\1" if best else "0", form) if said else "There is no answer."
    raise AssertionError(text)


def some_wrong(right: Sequence[str], wrong: Sequence[str]) -> list[str]:
    """Answers of which every third is wrong."""
    return [wrong[i] if i % 3 == 2 else right[i] for i in range(len(right))]


def share(count: int) -> float:
    """How many of so many answers are right."""
    return 1 - len(range(2, count, 3)) / count


# ---------------------------------------------------------------- benchmarks


def pope(place: Place) -> Bench:
    """POPE's three files: two of its own rows each about a photo of val2014, and some about two others."""
    splits: dict[str, list[dict[str, Any]]] = {}
    first, *others = sorted(place.photos, key=lambda photo: photo.name not in POPE_PHOTO)
    place.put(POPE_PHOTO, first.content)
    for split in ("random", "popular", "adversarial"):
        text = (place.data / "image_text" / "eval" / f"pope_coco_{split}.jsonl").read_text()
        own = [row for row in map(json.loads, text.splitlines()) if row["image"] == POPE_PHOTO]
        splits[split] = own[:2]
    for photo, split in zip(others, ("random", "adversarial"), strict=False):
        last = place.put(f"{photo.name}.jpg", photo.content)
        for one in (photo.questions[0], photo.questions[-1]):
            told = {"image": last.name, "text": one["prompt"], "label": one["label"]}
            splits[split].append({"question_id": 3000 + len(splits[split]), **told})
    files = {split: place.lines(f"coco_pope_{split}.jsonl", rows) for split, rows in splits.items()}
    listed = [(split, row) for split, rows in splits.items() for row in rows]
    right = [row["label"] for _, row in listed]
    said = some_wrong(right, [{"yes": "No, there is not.", "no": "Yes"}[one] for one in right])
    answers = [
        {"id": f"{split}/{row['question_id']}", "answer": text}
        for (split, row), text in zip(listed, said, strict=True)
    ]
    section = {"name": "pope", "questions": files, "images": place.media}
    worth = {"acc": share(len(right)), "unclear": 0}
    return Bench(section, last, place.lines("answers.jsonl", answers), worth)


def image_swap(place: Place) -> Bench:
    """POPE with other photos; the answers do not change with the photo, so that none of them is from it."""
    return twice(place, pope(place), "image_swap", "swapped")


def twice(place: Place, bench: Bench, name: str, word: str) -> Bench:
    """A control of a benchmark; somebody's answers are the same under its view."""
    rows = [json.loads(line) for line in Path(bench.answers).read_text().splitlines()]
    key = "id" if "id" in rows[0] else "question_id"
    again = [{**row, key: f"{row[key]}#{word}"} for row in rows]
    acc = bench.worth["acc"]
    worth = {"acc": acc, f"acc_{word}": acc, "acc_drop": 0.0}
    section = {"name": name, "of": bench.section}
    return Bench(section, bench.last, place.lines("twice.jsonl", [*rows, *again]), worth, bench.cut)


def amber(place: Place) -> Bench:
    """Descriptions, and yes or no about objects; words go by AMBER's own table."""
    rows: list[dict[str, Any]] = []
    photos = place.photos[:4]
    for i, photo in enumerate(photos):
        last = place.put(f"AMBER_{i}.jpg", photo.content)
        shown = {"id": i + 1, "image": last.name, "query": "Describe this image."}
        rows.append({**shown, "type": "generative", "truth": photo.objects, "hallu": [ZEBRA, "kite"]})
    for i, photo in enumerate(photos):
        one = photo.questions[-1 if i % 2 else 0]
        told = {"query": one["prompt"], "type": "discriminative-hallucination", "truth": one["label"]}
        rows.append({"id": len(rows) + 1, "image": f"AMBER_{i}.jpg", **told})
    last = place.put("AMBER_last.jpg", place.photos[4].content)
    rows.append({**rows[-1], "id": len(rows) + 1, "image": last.name, "truth": "no"})
    described = [f"There is a {row['truth'][0]} and a zebra." for row in rows[:4]]
    judged = [row["truth"].capitalize() for row in rows[4:]]
    answers = [
        {"id": row["id"], "response": text} for row, text in zip(rows, [*described, *judged], strict=True)
    ]
    table = str(place.data / "image_text" / "eval" / "amber_relation.json")
    section = {"questions": place.lines("query.jsonl", rows), "images": place.media, "association": table}
    f1 = 100 * 2 / (2 + 1e-4)  # the small number is the benchmark's own
    worth = {"chair": 50, "hal": 100, "cog": 50, "acc": 100, "f1": f1, "amber_score": (100 - 50 + f1) / 2}
    worth |= {"cover": 100 * 4 / sum(len(photo.objects) for photo in photos), "neither": 0}
    return Bench({"name": "amber", **section}, last, place.lines("answers.jsonl", answers), worth)


def _coco(place: Place) -> tuple[dict[str, str], Path, list[dict[str, Any]]]:
    """COCO's two files about six photos, the last of these, and captions that name one thing which is there
    and, in every third, one which is not."""
    names = categories()
    photos = place.photos[:6]
    files = [place.put(f"{i + 1:012}.jpg", photo.content) for i, photo in enumerate(photos)]
    marks = [
        {"image_id": i, "category_id": names.index(one) + 1, "iscrowd": 0}
        for i, photo in enumerate(photos, 1)
        for one in photo.objects
    ]
    instances = {
        "images": [{"id": i, "file_name": path.name} for i, path in enumerate(files, 1)],
        "annotations": marks,
        "categories": [{"id": i, "name": name} for i, name in enumerate(names, 1)],
    }
    captions = [
        {"image_id": i, "caption": one} for i, photo in enumerate(photos, 1) for one in photo.captions
    ]
    paths = {
        "instances": place.tree("instances_val2014.json", instances),
        "captions": place.tree("captions_val2014.json", {"annotations": captions}),
        "images": place.media,
    }
    right = [f"A photo with a {photo.objects[0]}." for photo in photos]
    said = some_wrong(right, [f"{text} A {ZEBRA} is there, too." for text in right])
    return paths, files[-1], [{"image_id": i, "caption": text} for i, text in enumerate(said, 1)]


def chair(place: Place) -> Bench:
    """Captions; two of six name something that is not there."""
    paths, last, said = _coco(place)
    section = {"name": "chair", **paths}
    return Bench(section, last, place.tree("captions.json", said), {"chair_i": 2 / 8, "chair_s": 2 / 6})


def object_halbench(place: Place) -> Bench:
    """The same as descriptions that were asked for by rows."""
    paths, last, said = _coco(place)
    rows = [{"image_id": one["image_id"], "question": "Describe the image."} for one in said]
    answers = [{"image_id": one["image_id"], "answer": one["caption"]} for one in said]
    section = {"name": "object_halbench", "questions": place.lines("questions.jsonl", rows), **paths}
    worth = {"response_rate": 2 / 6, "mention_rate": 2 / 8}
    return Bench(section, last, place.lines("answers.jsonl", answers), worth)


def mmhal(place: Place) -> Bench:
    """A list like the benchmark's own, eight questions of its eight types in order; one is not answered."""
    rows: list[dict[str, Any]] = []
    for i, photo in enumerate(place.photos):
        last = place.put(f"{i}_o.jpg", photo.content)
        told = {"question": f"What does photo {i} show?", "gt_answer": photo.captions[0]}
        source = f"https://farm2.staticflickr.com/{i}/{last.name}"
        rows.append({"image_src": source, "image_content": photo.objects, **told, "model_answer": ""})
    said = some_wrong([row["gt_answer"] for row in rows], ["A zebra."] * len(rows))
    said[0] = ""
    answers = [{**row, "model_answer": text} for row, text in zip(rows, said, strict=True)]
    section = {"questions": place.tree("template.json", rows), "images": place.media, "judge": judge()}
    worth = {"score": 6 * 5 / 8, "hallucination_rate": 3 / 8, "unread": 1 / 8, "informativeness": 5 / 8}
    return Bench({"name": "mmhal", **section}, last, place.tree("answers.json", answers), worth)


def mm_vet(place: Place) -> Bench:
    """An object of questions; answers as an object of texts, of which one is empty."""
    rows: dict[str, dict[str, Any]] = {}
    for i, photo in enumerate(place.photos[:6]):
        last = place.put(f"v1_{i}.png", photo.content)
        kinds = ["rec", "know"] if i % 2 else ["rec"]
        told = {"question": "What is it?", "answer": photo.objects[0], "capability": kinds}
        rows[f"v1_{i}"] = {"imagename": last.name, **told}
    right = [f"It is a {row['answer']}." for row in rows.values()]
    said = dict(zip(rows, some_wrong(right, ["It is a zebra."] * len(right)), strict=True)) | {"v1_0": ""}
    section = {"questions": place.tree("mm-vet.json", rows), "images": place.media, "judge": judge()}
    worth = {"score": 100 * 3 / 5, "unread": 1 / 6}
    return Bench({"name": "mm_vet", **section}, last, place.tree("answers.json", said), worth)


def green(place: Place) -> Bench:
    """Reports on one picture or on two."""
    rows: list[dict[str, Any]] = []
    for i, photo in enumerate(place.photos[:6]):
        last = place.put(f"study{i}.png", photo.content)
        row: dict[str, Any] = {"id": f"s{i}", "report": photo.captions[1].replace("\n", " ")}
        rows.append(
            {**row, "images": [f"study{i - 1}.png", last.name]} if i % 2 else {**row, "image": last.name}
        )
    reports = [row["report"] for row in rows]
    said = some_wrong(reports, ["A zebra."] * len(rows))
    answers = [{"id": row["id"], "answer": text} for row, text in zip(rows, said, strict=True)]
    section = {
        "questions": place.lines("reports.jsonl", rows),
        "images": place.media,
        "judge": judge("green"),
    }
    return Bench(
        {"name": "green", **section},
        last,
        place.lines("answers.jsonl", answers),
        {"green": 4 / 6, "unread": 0},
    )


def mantis(place: Place) -> Bench:
    """Two pictures in their places, or in front; letters and a short answer."""
    rows: list[dict[str, Any]] = []
    for i in range(6):
        pair = [place.photos[i], place.photos[(i + 1) % 8]]
        files = [place.put(f"m{i}_{k}.jpg", photo.content) for k, photo in enumerate(pair)]
        text = "In <image> and <image>, which has it?" if i % 2 else "What is in the first one?"
        options = ["(A) the first", "(B) the second"] if i % 2 else []
        answer = "A" if i % 2 else pair[0].objects[0]
        kinds = {"question_type": "multi-choice" if options else "short-answer", "category": "objects"}
        names = [path.name for path in files]
        row = {"id": f"q{i}", "question": text, "images": names, "options": options, "answer": answer}
        rows.append({**row, **kinds})
    said = some_wrong(
        [f"{row['answer']}." for row in rows], ["B" if row["options"] else "zebra" for row in rows]
    )
    answers = [{"id": row["id"], "response": text} for row, text in zip(rows, said, strict=True)]
    section = {"name": "mantis", "questions": place.lines("mantis.jsonl", rows), "images": place.media}
    worth = {"acc": share(6), "unanswered": 0}
    return Bench(section, files[-1], place.lines("answers.jsonl", answers), worth)


def nlvr2(place: Place) -> Bench:
    """Two statements of two pairs of pictures each, and two of one; the answers are wrong of the second pair
    of the first statement and of the last."""
    names = ("dev-1-0-0", "dev-2-0-0", "dev-1-1-0", "dev-3-0-0", "dev-3-1-0", "dev-4-0-0")
    rows = []
    for i, name in enumerate(names):
        for k in (0, 1):
            last = place.put(f"{name.rpartition('-')[0]}-img{k}.png", place.photos[(i + k) % 8].content)
        thing = place.photos[i].objects[0] if i % 2 else ZEBRA
        said = f"One of the pictures has a {thing}."
        rows.append({"identifier": name, "sentence": said, "label": str(bool(i % 2))})
    right = [row["label"] for row in rows]
    said_of = some_wrong(right, [str(one == "False") for one in right])
    answers = [{"id": name, "answer": text} for name, text in zip(names, said_of, strict=True)]
    section = {"name": "nlvr2", "questions": place.lines("dev.json", rows), "images": place.media}
    worth = {"acc": share(6), "consistency": 2 / 4, "unanswered": 0}
    return Bench(section, last, place.lines("answers.jsonl", answers), worth)


def blink(place: Place) -> Bench:
    """Two tasks, with one picture and with four."""
    rows: list[dict[str, Any]] = []
    for i in range(6):
        count = 4 if i % 2 else 1
        shown = [place.photos[(i + k) % 8] for k in range(count)]
        files = [place.put(f"b{i}_{k}.png", photo.content) for k, photo in enumerate(shown)]
        row: dict[str, Any] = {f"image_{k}": path.name for k, path in enumerate(files, 1)}
        choices = [shown[0].objects[0], ZEBRA]
        task = "Semantic_Correspondence" if i % 2 else "Object_Localization"
        row |= {"idx": f"val_{task}_{i}", "sub_task": task, "question": "What is in the first picture?"}
        rows.append({**row, "choices": choices, "answer": "(A)"})
    said = some_wrong(["(A)"] * 6, ["(B) a zebra"] * 6)
    answers = [{"idx": row["idx"], "prediction": text} for row, text in zip(rows, said, strict=True)]
    section = {"name": "blink", "questions": place.lines("val.jsonl", rows), "images": place.media}
    worth = {"acc": 4 / 6, "macro": 4 / 6, "unanswered": 0}
    return Bench(section, files[-1], place.lines("answers.jsonl", answers), worth)
