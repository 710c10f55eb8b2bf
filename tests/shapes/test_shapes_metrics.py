"""CHAIR and POPE of the built-in world: true answers score as they must; the shipped model is measured."""

from pathlib import Path

import pytest

from mmalign.metrics._resampling import figures
from mmalign.shapes.metrics import Chair, Pope
from mmalign.shapes.sight_text import caption_of


def test_true_captions_and_false_ones() -> None:
    metric = Chair(num=20)
    scenes = dict(metric.scenes())
    true = {name: caption_of(sight.things) for name, sight in scenes.items()}
    found = figures(metric, metric.grade(true))
    assert [found[name].value for name in ("chair_i", "chair_s", "recall")] == [0, 0, 1]
    names = list(scenes)
    others = dict(zip(names, [true[name] for name in names[1:] + names[:1]], strict=True))
    swapped = figures(metric, metric.grade(others))
    assert (swapped["chair_i"].value or 0) > 0.5 and (swapped["recall"].value or 0) < 0.5
    twice = {name: f"{text}, {text}" for name, text in others.items()}
    assert figures(metric, metric.grade(twice)) == swapped


def test_presence_questions_are_balanced() -> None:
    metric = Pope(num=30)
    labels = {key: item.label for key, (_, item) in metric._asked.items()}
    assert all(label == ("yes" if key.endswith("there") else "no") for key, label in labels.items())
    right = figures(metric, metric.grade(labels))
    assert [right[name].value for name in ("acc", "f1", "yes_ratio", "unclear")] == pytest.approx(
        [1, 1, 0.5, 0], abs=0.02
    )
    always = figures(metric, metric.grade(dict.fromkeys(labels, "yes")))
    assert always["recall"].value == 1 and always["acc"].value == pytest.approx(0.5, abs=0.02)
    groups = {group for item in metric.grade(labels) for group in item.groups["split"]}
    assert groups == {"random", "companion", "exchange"}


def test_the_shipped_model_names_what_is_not_there(tmp_path: Path) -> None:
    """What the quickstart's preference pairs teach it not to do."""
    import torch

    from mmalign.config import load
    from mmalign.evaluation.asking import Asker, Side
    from mmalign.measuring import named
    from mmalign.training.finished import _yielding

    config = load("configs/quickstart/vlm.yaml")
    adapter = config.model.build(torch.device("cpu"), torch.float32)
    policy = adapter.policy.eval()
    asker = Asker(adapter, None, tmp_path, 32, 0)
    side = Side("base", {}, _yielding(policy))
    metric = Chair(num=24)
    ((name, _),) = named([metric])
    assert name == "Chair"
    found = figures(metric, metric.grade(asker.answers(side, metric.ask())))
    assert 0.05 < (found["chair_s"].value or 0) < 0.7 and (found["recall"].value or 0) > 0.7
