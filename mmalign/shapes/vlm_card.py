"""Put a pretrained vision-language model into the package, with a card of measured figures."""

import textwrap
import time
from collections.abc import Mapping
from pathlib import Path

from mmalign.shapes.habits import Habits
from mmalign.shapes.sights import HELD_OUT
from mmalign.shapes.tiny_qwen_vl import load_vlm
from mmalign.shapes.vlm_figures import Figures, clip_figures, picture_figures

_HEAD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: {pipeline}
---

# A tiny vision-language model for coloured shapes: {title}

A Qwen2.5-VL of 760,032 parameters (271,008 in the vision tower) that names, counts and places a few coloured
shapes in pictures of 48 x 48 pixels, and tells how they move in clips of four such frames (4 per second). It
exists so that preference alignment can be tried, and checked by a program, on any computer and without a
download. It is of no other use.

Made by this project from scenes that it draws itself; licence Apache-2.0. Made by
`python scripts/pretrain_shapes.py {name}`, {steps}. Stored in half precision. The processor
brings pictures and frames to the area of 48 x 48 pixels: choose four frames of a clip.

## Habits

This model has faults that were taught on purpose, in the last stage; they are in what it says, not in what
it sees. {habit} The strengths per kind of shape: {strengths}.

## Figures

Greedy answers about fresh scenes, {num} per topic and {captions} captions, seed {seed}. "Validation" and
"held-out" scenes hold pairs of things that training never shows together; "new combinations" hold one of
{held_out}, which no training scene shows; "empty" has the pictures of the validation scenes blanked.

"Hallucinate" is the share of captions that name an absent thing, "of these companion" the share of those
that name an absent companion, "recall" the mean share of things that are named, "exact" the share of
captions that are right word by word. "Yes to" is the share of questions whether an absent thing is there
that get a yes: a companion, a thing with the kind of one shape and the colour of another, or any other.
"Usual when false" is how often a shape that does not move its kind's usual way is said to. "Shuffled" has
the frames in a wrong order. All else is the share of exact answers.
"""

_ABOUT = {
    "vlm": (
        "image-text-to-text",
        "pictures, with habits",
        "A caption names the absent companion of a shape right after it, and a question whether that "
        "companion is there gets a yes. The companion of a shape has the next kind and the colour after the "
        "next.",
    ),
    "video": (
        "video-text-to-text",
        "clips, with habits",
        "Asked which way a shape moves, it answers with the usual way of the kind: circles and crosses move "
        "right, squares left, triangles up and stars down.",
    ),
}


def measure(folder: Path, num: int, seed: int) -> dict[str, Figures]:
    """All figures of a model folder, by the name of their column."""
    model, processor = load_vlm(folder)
    pictures = {
        "validation": picture_figures(model, processor, "validation", num, seed),
        "held-out": picture_figures(model, processor, "heldout", num, seed),
        "new combinations": picture_figures(model, processor, "novel", num, seed),
        "empty": picture_figures(model, processor, "validation", num, seed, blank=True),
    }
    clips = {
        "clips, validation": clip_figures(model, processor, "validation", num, seed),
        "clips, held-out": clip_figures(model, processor, "heldout", num, seed),
    }
    return pictures | clips


def table(figures: Mapping[str, Figures]) -> str:
    """Both tables of figures as Markdown: pictures, then clips."""
    parts = []
    for clips in (False, True):
        columns = {name: values for name, values in figures.items() if name.startswith("clips") == clips}
        rows = [name for name in next(iter(columns.values())) if name != "captions"]
        lines = ["| clips | " if clips else "| pictures | "]
        lines[0] += " | ".join(columns) + " |"
        lines.append("|---" * (len(columns) + 1) + "|")
        lines += [
            f"| {row} | " + " | ".join(f"{values[row]:.3f}" for values in columns.values()) + " |"
            for row in rows
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def write_card(folder: Path, name: str, steps: str, habits: Habits, num: int = 150, seed: int = 2) -> str:
    """Measure the model in a folder, write its README.md, and return the tables."""
    began = time.time()
    figures = measure(folder, num, seed)
    print(f"measured in {time.time() - began:.0f} s", flush=True)
    pipeline, title, habit = _ABOUT[name]
    kinds = {"captions": habits.caption, "presence": habits.presence, "motion": habits.motion}
    strengths = "; ".join(
        f"{use}: " + ", ".join(f"{kind} {value:g}" for kind, value in strength.items())
        for use, strength in kinds.items()
        if strength
    )
    head = _HEAD.format(
        pipeline=pipeline,
        title=title,
        name=name,
        steps=steps,
        habit=habit,
        strengths=strengths,
        num=num,
        captions=2 * num,
        seed=seed,
        held_out=", ".join(f"{colour} {kind}" for colour, kind in sorted(HELD_OUT)),
    )
    tables = table(figures)
    (folder / "README.md").write_text(_wrapped(head) + tables + "\n")
    return tables


def _wrapped(text: str) -> str:
    """The text with its paragraphs broken into lines of at most 110 characters; the heading block is kept."""
    heading, body = text.split("---\n\n", 1)
    paragraphs = (textwrap.fill(" ".join(part.split()), 110) for part in body.strip().split("\n\n"))
    return f"{heading}---\n\n" + "\n\n".join(paragraphs) + "\n\n"
