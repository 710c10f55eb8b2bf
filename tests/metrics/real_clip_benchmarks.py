"""Every benchmark of clips in its own form, small, about real ones, as `real_benchmarks.py` has those of
pictures."""

from __future__ import annotations

from typing import Any

from metrics.real_benchmarks import Bench, judge, share, some_wrong, twice
from metrics.real_media import Film, Place, frames_of


def video_mme(place: Place) -> Bench:
    """Choices about clips of every codec; the last stops in the middle of its stream."""
    rows: list[dict[str, Any]] = []
    for i, (name, film) in enumerate(place.films.items()):
        last = place.put(f"{name}.mp4", film.content)
        row = {"videoID": name, "question_id": f"{i}-1", "question": film.prompt, **_options(film, i)}
        rows.append({**row, "duration": "short", "domain": "Film", "task_type": "Action Reasoning"})
    said = some_wrong([row["answer"] for row in rows], ["C. both"] * len(rows))
    answers = [
        {"question_id": row["question_id"], "response": text} for row, text in zip(rows, said, strict=True)
    ]
    section = {"name": "video_mme", "questions": place.tree("test.json", rows), "videos": place.media}
    worth = {"acc": 100 * share(len(rows)), "unanswered": 0}
    cut = (place.data / "video" / "corrupt_stream.mp4").read_bytes()
    return Bench(section, last, place.lines("answers.jsonl", answers), worth, cut)


def _options(film: Film, number: int) -> dict[str, Any]:
    two = [film.right, film.wrong] if number % 2 else [film.wrong, film.right]
    listed = [f"{letter}. {text}" for letter, text in zip("ABC", [*two, "both"], strict=True)]
    return {"options": listed, "answer": "A" if number % 2 else "B"}


def frame_shuffle(place: Place) -> Bench:
    """Video-MME with shuffled frames; the last clip is none but sound."""
    bench = video_mme(place)
    sound = (place.data / "video" / "audio_only.wav").read_bytes()
    made = twice(place, bench, "frame_shuffle", "shuffled")
    return Bench(made.section, made.last, made.answers, made.worth, sound)


def mvbench(place: Place) -> Bench:
    """Three tasks: parts of clips, a clip that is a folder of frames, and whole clips of which the last is
    cut off without its decoder telling."""
    films = place.films
    tasks: dict[str, list[dict[str, Any]]] = {
        "action_sequence": [
            {**_candidates(films["chaplin"]), "video": "chaplin.mp4", "start": 1.0, "end": 4.5},
            {**_candidates(films["timecode"]), "video": "timecode.mp4", "start": 1, "end": 9},
            {**_candidates(films["chaplin"]), "video": "chaplin.mp4", "start": 6.0, "end": 7.0},
        ],
        "episodic_reasoning": [{**_candidates(films["keys"]), "video": "keys"}],
        "moving_direction": [
            {**_candidates(films[name]), "video": f"{name}.mp4"} for name in ("dot", "cradle")
        ],
    }
    for name in ("chaplin", "timecode", "dot", "cradle"):
        last = place.put(f"clips/{name}.mp4", films[name].content)
    for i, content in enumerate(frames_of(films["keys"].content), 1):
        place.put(f"frames/keys/{i:05}.jpg", content)
    for task, rows in tasks.items():
        place.tree(f"tasks/{task}.json", rows)
    named = [(f"{task}/{i}", row) for task, rows in tasks.items() for i, row in enumerate(rows, 1)]
    said = some_wrong([row["answer"] for _, row in named], [row["candidates"][1] for _, row in named])
    answers = [{"id": name, "pred": text, **row} for (name, row), text in zip(named, said, strict=True)]
    folders = dict.fromkeys(tasks, f"{place.media}/clips") | {"episodic_reasoning": f"{place.media}/frames"}
    section = {"name": "mvbench", "questions": str(place.folder / "tasks"), "videos": folders}
    worth = {"acc": share(6), "macro": (2 / 3 + 1 + 1 / 2) / 3, "unanswered": 0}
    cut = (place.data / "video" / "truncated.webm").read_bytes()
    return Bench(section, last, place.lines("answers.jsonl", answers), worth, cut)


def _candidates(film: Film) -> dict[str, Any]:
    return {"question": film.prompt, "candidates": [film.right, film.wrong], "answer": film.right}


def tempcompass(place: Place) -> Bench:
    """All four forms, each about two clips; one caption is wrong, and the last clip cannot be opened."""
    trees: dict[str, dict[str, Any]] = {}
    for name in ("keys", "snow", "cradle"):
        film = place.films[name]
        last = place.put(f"{name}.mov", film.content)
        choice = f"{film.prompt}\nA. {film.wrong}\nB. {film.right}"
        named = f"Which is right?\nCaption A: {film.right}\nCaption B: {film.wrong}"
        written = {"question": "Describe it.", "mc_question": choice, "mc_answer": film.right, "answer": "?"}
        for form, row in (
            ("multi-choice", {"question": choice, "answer": f"B. {film.right}"}),
            ("yes_no", {"question": f"Is this right? {film.right}", "answer": "yes"}),
            ("caption_matching", {"question": named, "answer": f"Caption A: {film.right}"}),
            ("captioning", written),
        ):
            if (form == "captioning") if name == "cradle" else (form, name) != ("captioning", "keys"):
                trees.setdefault(form, {})[name] = {"order": [row]}
    ids = [f"{form}/{name}/order/1" for form, tree in trees.items() for name in tree]
    snow = place.films["snow"].right
    said = ["B", "B.", "Yes.", "yes", "Caption A", "Caption A.", f"I think so: {snow}", "It swings."]
    answers = [{"id": name, "answer": text} for name, text in zip(ids, said, strict=True)]
    files = {form: place.tree(f"{form}.json", tree) for form, tree in trees.items()}
    section = {"questions": files, "videos": place.media, "suffix": ".mov", "judge": judge()}
    worth = {"acc": 7 / 8, "macro": 3.5 / 4, "unanswered": 0}
    cut = (place.data / "video" / "truncated.mp4").read_bytes()
    return Bench({"name": "tempcompass", **section}, last, place.lines("answers.jsonl", answers), worth, cut)
