"""The shipped picture and clip models: public loaders read them, they see, and have the faults they state."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
)

from mmalign.shapes.clips import sample_clip
from mmalign.shapes.sight_text import DESCRIBE_PICTURE
from mmalign.shapes.sights import render_sight, sample_sight
from mmalign.shapes.tiny_qwen_vl import VIDEO_FOLDER, VLM_FOLDER, build_tokenizer, load_vlm
from mmalign.shapes.vlm_answers import answer_pictures
from mmalign.shapes.vlm_figures import caption_figures, clip_share, false_yes, picture_share, usual_when_false

VLM, VIDEO = load_vlm(VLM_FOLDER), load_vlm(VIDEO_FOLDER)


@pytest.mark.parametrize("folder", [VLM_FOLDER, VIDEO_FOLDER])
def test_public_loaders_read_every_weight(folder: Path) -> None:
    model, report = AutoModelForImageTextToText.from_pretrained(folder, output_loading_info=True)
    assert isinstance(model, Qwen2_5_VLForConditionalGeneration) and model.dtype == torch.float16
    assert not report["missing_keys"] and not report["unexpected_keys"] and not report["mismatched_keys"]
    assert isinstance(AutoProcessor.from_pretrained(folder), Qwen2_5_VLProcessor)
    assert sum(path.stat().st_size for path in folder.rglob("*")) < 1_700_000
    assert (folder / "README.md").read_text().startswith("---\nlicense: apache-2.0")


@pytest.mark.parametrize(
    ("topic", "floor"),
    [
        ("colour", 0.85),
        ("shape", 0.85),
        ("size", 0.85),
        ("count", 0.65),
        ("presence", 0.8),
        ("relation", 0.75),
    ],
)
def test_the_picture_model_sees(topic: str, floor: float) -> None:
    assert picture_share(*VLM, "validation", topic, 60, seed=5) >= floor


def test_captions_name_what_is_there_and_absent_companions() -> None:
    figures = caption_figures(*VLM, "validation", 100, seed=5)
    assert figures["recall"] >= 0.85
    assert 0.2 <= figures["hallucinate"] <= 0.7
    assert figures["of these companion"] >= 0.6


def test_the_picture_matters() -> None:
    assert caption_figures(*VLM, "validation", 60, seed=5, blank=True)["recall"] < 0.2
    assert picture_share(*VLM, "validation", "colour", 60, seed=5, blank=True) < 0.4


def test_absent_companions_get_more_yes_than_other_absent_things() -> None:
    companion, other = (false_yes(*VLM, "validation", probe, 80, seed=5) for probe in ("companion", "random"))
    assert companion >= 0.2 and other <= 0.15


def test_sampling_depends_on_its_seed_alone() -> None:
    picture = [render_sight(sample_sight("validation", 5, number)) for number in range(12)]
    asked = [DESCRIBE_PICTURE] * 12
    first, again, other = (answer_pictures(*VLM, picture, asked, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("topic", "floor"), [("count", 0.95), ("presence", 0.9), ("motion_check", 0.9), ("order", 0.75)]
)
def test_the_clip_model_sees(topic: str, floor: float) -> None:
    assert clip_share(*VIDEO, "validation", topic, 60, seed=5) >= floor


def test_the_clip_model_says_the_usual_motion_too_often_yet_not_always() -> None:
    assert 0.45 <= clip_share(*VIDEO, "validation", "motion", 80, seed=5) <= 0.9
    assert 0.1 <= usual_when_false(*VIDEO, "validation", 80, seed=5) <= 0.8


def test_the_order_of_frames_matters() -> None:
    straight = clip_share(*VIDEO, "validation", "motion", 80, seed=5)
    assert clip_share(*VIDEO, "validation", "motion", 80, seed=5, shuffled=True) < straight - 0.1
    assert {actor.onset for number in range(20) for actor in sample_clip("validation", 5, number).actors} == {
        0,
        2,
    }


@pytest.mark.parametrize("folder", [VLM_FOLDER, VIDEO_FOLDER])
def test_the_shipped_tokenizer_is_the_one_that_pretraining_builds(folder: Path) -> None:
    shipped, built = AutoTokenizer.from_pretrained(folder), build_tokenizer()
    assert shipped.get_vocab() == built.get_vocab() and shipped.chat_template == built.chat_template
    text = (
        "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>Is there an orange star?<|im_end|>\nÄ"
    )
    assert shipped(text)["input_ids"] == built(text)["input_ids"]
