"""What is refused before a weight is loaded: parts that do not fit together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from config_text import loaded, text

from mmalign.adapters.diffusion import Diffusion
from mmalign.config import RunConfig
from mmalign.training.checks import check_config, choose, uses_chunks
from mmalign.types import AllMean, Objective, Outcome, Scores, State, UserError

DIFFUSION = "{adapter: diffusion, path: m}"


@dataclass(frozen=True)
class Teacher(Objective):
    """Scores whole distributions of a source that no config provides."""

    source: str = "reference"
    needs = frozenset({"distribution"})

    @property
    def roles(self) -> Mapping[str, tuple[str, ...]]:
        return {"policy": ("chosen",), self.source: ("chosen",)}

    def __call__(self, scores: Scores, labels: Mapping[str, Any], state: State, all_mean: AllMean) -> Outcome:
        return Outcome(-scores["policy"]["chosen"].total(), {}, state)


@dataclass(frozen=True)
class Astrology(Teacher):
    """Needs what no adapter has heard of."""

    needs = frozenset({"stars"})


def own(cls: type) -> str:
    """How a config names a class of this file."""
    return f"{{name: '{__name__}:{cls.__name__}'}}"


@pytest.fixture
def make(tmp_path: Path) -> Any:
    def config(overrides: Sequence[str] = (), **sections: str) -> RunConfig:
        return loaded(tmp_path, text(**sections), overrides, allow_code=True)

    return config


def refused(config: RunConfig, processes: int = 1) -> str:
    with pytest.raises(UserError) as error:
        check_config(config, processes)
    line = str(error.value)
    assert "\n" not in line
    return line


# ---------------------------------------------------------------- what a model offers


def test_mapo_needs_errors_that_text_has_not(make: Any) -> None:
    line = refused(make(objective="{name: mapo}"))
    assert line.startswith(
        "objective mapo needs error (raw per-sample denoising errors); adapter text offers"
    )
    assert check_config(make(objective="{name: mapo}", model=DIFFUSION)) == []


def test_needs_inside_a_list_of_objectives_count(make: Any) -> None:
    assert "needs error" in refused(make(objective="[{name: dpo}, {name: mapo}]"))


def test_needs_of_transforms_count(make: Any) -> None:
    line = refused(make(model=DIFFUSION, transforms="{name: length_desensitized}"))
    assert line.startswith("transforms length_desensitized needs units")
    assert "adapter diffusion offers error, inversion, length, prediction, ratio" in line
    check_config(make(transforms="{name: length_desensitized}"))


def test_a_spoilt_picture_needs_a_model_that_reads_pictures(make: Any) -> None:
    line = refused(make(objective="{name: mdpo}"))
    assert line.startswith(
        "objective mdpo changes the image or video of a prompt, and adapter text reads none"
    )
    assert "adapter diffusion reads none" in refused(make(objective="{name: mdpo}", model=DIFFUSION))
    assert "objective sum changes" in refused(make(objective="[{name: mdpo}, {name: sft}]"))
    check_config(make(objective="{name: mdpo}", model="{adapter: vlm, path: m}"))
    frames = "{name: mdpo, corruption: reversed_frames}"
    assert "changes the video" in refused(make(objective=frames, model="{adapter: vlm, path: m}"))
    check_config(make(objective=frames, model="{adapter: video_lm, path: m}"))


def test_likelihoods_compared_without_a_reference_are_refused_on_surrogates(make: Any) -> None:
    line = refused(make(objective="{name: simpo}", model=DIFFUSION))
    assert line.startswith("objective simpo needs absolute (differences of absolute log-likelihoods")
    check_config(make(objective="{name: simpo}"))


def test_an_unknown_need_is_named(make: Any) -> None:
    assert "Astrology: needs the unknown 'stars'; known: ratio" in refused(make(objective=own(Astrology)))


# ---------------------------------------------------------------- the reference


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"reference": "{name: none}"}, "reference.name=none: this objective takes log-ratios"),
        ({"reference": "{name: lora_off}"}, "reference.name=lora_off: there is no LoRA to switch"),
        ({"reference": "{name: initial_adapter}"}, "reference.name=initial_adapter: there is no LoRA"),
        ({"reference": "{name: initial_adapter}", "lora": "{}"}, "give lora.path"),
        ({"objective": "{name: sft}", "reference": "{name: copy}"}, "this objective takes no reference"),
        ({"objective": "{name: kto}", "reference": "{name: cached}"}, "views.redraw=once"),
        ({"model": DIFFUSION, "reference": "{name: cached}"}, "needs train.draws=fixed:K"),
    ],
)
def test_contradictory_references(sections: dict[str, str], words: str, make: Any) -> None:
    assert words in refused(make(**sections))


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, "copy"),
        ({"lora": "{}"}, "lora_off"),
        ({"lora": "{path: a}"}, "initial_adapter"),
        ({"lora": "{path: a}", "reference": "{name: lora_off}"}, "lora_off"),
        ({"lora": "{}", "reference": "{name: copy}"}, "copy"),
        ({"reference": "{name: path, path: other}"}, "path"),
        ({"objective": "{name: sft}"}, "none"),
        ({"objective": "{name: sft}", "reference": "{name: none}"}, "none"),
        ({"objective": "[{name: sft}, {name: dpo}]"}, "copy"),
        ({"reference": "{name: cached}"}, "cached"),
        ({"objective": "{name: kto}", "reference": "{name: cached}", "views": "{redraw: once}"}, "cached"),
        (
            {"model": DIFFUSION, "reference": "{name: cached}", "train": "{steps: 1, draws: fixed:2}"},
            "cached",
        ),
    ],
)
def test_the_reference_is_chosen_and_told(sections: dict[str, str], expected: str, make: Any) -> None:
    config = make(**sections)
    assert choose(config) == expected
    told = [note for note in check_config(config) if note.startswith("reference")]
    assert told == ([] if expected == "none" else [f"reference: {expected}"])


def test_a_config_provides_only_one_frozen_source(make: Any) -> None:
    line = refused(make(objective=f"{{name: '{__name__}:Teacher', source: teacher}}"))
    assert line == "objective: scores a source called teacher; a config can provide only reference"


# ---------------------------------------------------------------- sizes of a step


def test_every_process_needs_a_sample(make: Any) -> None:
    config = make(train="{steps: 1, batch: 2}")
    check_config(config, 2)
    assert "train.batch: 2 samples cannot be shared by 3 processes" in refused(config, 3)


def test_a_micro_batch_is_part_of_a_batch(make: Any) -> None:
    assert "train.micro_batch: 5 is more than train.batch, 4" in refused(
        make(train="{steps: 1, batch: 4, micro_batch: 5}")
    )


def test_exact_models_draw_nothing(make: Any) -> None:
    assert "train.draws=fixed:K: scoring with an exact model draws nothing" in refused(
        make(train="{steps: 1, draws: fixed:2}")
    )


SPLIT = "{{steps: 1, batch: 8, micro_batch: 2, backward: {}}}"


def test_coupled_samples_cannot_be_split_over_direct_backwards(make: Any) -> None:
    kto = {"objective": "{name: kto}"}
    line = refused(make(**kto, train=SPLIT.format("direct")))
    assert "couples the samples" in line and "set train.micro_batch=8 or use auto" in line
    assert "train.micro_batch=4" in refused(make(**kto, train=SPLIT.format("direct")), 2)
    for sections in (
        {**kto, "train": SPLIT.format("auto")},
        {**kto, "train": "{steps: 1, batch: 8, backward: direct}"},
        {"train": SPLIT.format("direct")},  # DPO couples nothing
    ):
        check_config(make(**sections))
    check_config(make(**kto, train=SPLIT.format("direct")), 4)  # two samples per process: one forward


def test_the_repair_that_is_named_works(make: Any) -> None:
    fixed = make(["train.micro_batch=4"], objective="{name: kto}", train=SPLIT.format("direct"))
    check_config(fixed, 2)


def test_gradients_go_through_the_scores_where_they_must(make: Any) -> None:
    kto = {"objective": "{name: kto}"}
    assert uses_chunks(make(**kto, train=SPLIT.format("auto")), 1)
    assert not uses_chunks(make(**kto, train=SPLIT.format("auto")), 4)
    assert not uses_chunks(make(train=SPLIT.format("auto")), 1)
    assert uses_chunks(make(train=SPLIT.format("chunked")), 1)
    assert uses_chunks(
        make(objective="[{name: dpo}, {name: sft, reduction: token_mean}]", train=SPLIT.format("auto")), 1
    )


def test_whole_distributions_cannot_be_chunked(make: Any) -> None:
    line = refused(make(objective=own(Teacher), train=SPLIT.format("chunked")))
    assert "whole next-token distributions cannot be chunked; use direct and train.micro_batch=8" in line
    check_config(make(objective=own(Teacher), train=SPLIT.format("direct")))


def test_one_way_to_hold_rows_back(make: Any) -> None:
    held = "{source: jsonl, path: h}"
    split = "{source: jsonl, path: d, heldout: 0.1}"
    assert "either this section or data.heldout, not both" in refused(make(heldout=held, data=split))
    check_config(make(heldout=held))
    check_config(make(data=split))


def test_a_text_sized_beta_on_errors_is_pointed_out(make: Any) -> None:
    notes = check_config(make(model=DIFFUSION))
    assert any("objective.beta 0.1" in note and "about 2000" in note for note in notes)
    (line,) = (n for n in check_config(make(model=DIFFUSION, objective="{name: ipo}")) if "tau" in n)
    assert line.startswith("warning: objective.tau 0.1 is of") and "about 2000 with scale=unit" in line
    for sections in (
        {"model": DIFFUSION, "objective": "{name: dpo, beta: 2000}"},
        {"model": DIFFUSION, "objective": "{name: ipo, tau: 2000, scale: unit}"},
        {},
        {"objective": "{name: kto}"},
    ):
        assert not any("beta" in note for note in check_config(make(**sections)))


@dataclass(frozen=True)
class OfManySizes(Diffusion):
    """A model whose samples come in several sizes, and can only be scored beside others of theirs."""

    buckets: str = "aspect"


def test_samples_of_several_sizes_split_a_step(make: Any) -> None:
    def sized(buckets: str, objective: str, train: str) -> RunConfig:
        config = make(model=DIFFUSION, objective=objective, train=train)
        return replace(config, model=OfManySizes("m", buckets=buckets))

    whole = "{{steps: 1, batch: {}, backward: {}}}"
    assert uses_chunks(sized("aspect", "{name: kto}", whole.format(8, "auto")), 1)
    assert not uses_chunks(sized("square", "{name: kto}", whole.format(8, "auto")), 1)
    assert not uses_chunks(sized("aspect", "{name: dpo}", whole.format(8, "auto")), 1)
    assert not uses_chunks(sized("aspect", "{name: kto}", whole.format(2, "auto")), 2)  # one sample each
    line = refused(sized("aspect", "{name: kto}", whole.format(8, "direct")))
    assert "set train.micro_batch=8, model.buckets=square or use auto" in line
    check_config(sized("square", "{name: kto}", whole.format(8, "direct")))


def test_two_answers_of_three_are_not_swapped(make: Any) -> None:
    flip = ["data.flip=0.5"]
    with pytest.raises(UserError, match=r"^data\.flip: swaps two answers, and objective bdhs compares three"):
        check_config(make(flip, objective="{name: bdhs}"))
    check_config(make(flip, objective="{name: bdhs, gamma: 0}"))
    check_config(make(objective="{name: bdhs}"))


@pytest.mark.parametrize(
    ("objective", "label"),
    [
        ("{name: dpo, margin: 0.5}", "margin"),
        ("{name: mm_dpo}", "margin"),
        ("[{name: dpo, margin: 0.5}, {name: sft, weight: 0.1}]", "margin"),
        ("{name: densedpo}", "segments"),
    ],
)
def test_labels_that_know_better_are_not_flipped(make: Any, objective: str, label: str) -> None:
    model = {"model": DIFFUSION} if label == "segments" else {}
    with pytest.raises(
        UserError, match=rf"^data\.flip: the label {label}, which objective \w+ reads, .*; remove"
    ):
        check_config(make(["data.flip=0.5"], objective=objective, **model))
    check_config(make(objective=objective, **model))


@pytest.mark.parametrize("objective", ["{name: dpo}", "{name: mm_dpo, gap: scores}", "{name: kto}"])
def test_labels_of_single_answers_go_with_them(make: Any, objective: str) -> None:
    check_config(make(["data.flip=0.5"], objective=objective))
