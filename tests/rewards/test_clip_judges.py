"""Judges on two towers: upstream's own numbers, both libraries, batches, gradients, and refusals."""

import importlib.util
import json
import logging
import math
import shutil
from dataclasses import replace
from pathlib import Path

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from rewards.tiny_clip import (
    ARCHITECTURE,
    CAPTIONS,
    SIDE,
    SIZES,
    build_open_clip,
    picture,
    pixels_of,
    said,
    save_checkpoint,
    save_open_clip,
    save_transformers,
    shown,
)
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.rewards._clip_judge import ClipJudge
from mmalign.rewards.clip_score import ClipScore
from mmalign.rewards.hps_v2 import HpsV2
from mmalign.rewards.pick_score import PickScore
from mmalign.types import ManyJudge, PixelReward, UserError

PICTURES = [picture(i, size) for i, size in enumerate(SIZES)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three models: a transformers folder, an open_clip folder, and a file of open_clip weights."""
    found = tmp_path_factory.mktemp("towers")
    save_transformers(found / "clip")
    save_open_clip(found / "open")
    save_checkpoint(found / "hps.pt")
    return found


@pytest.fixture(scope="module")
def judges(root: Path) -> dict[str, ClipJudge]:
    """One judge per way to hold a model."""
    found: dict[str, ClipJudge] = {
        "clip": ClipScore(str(root / "clip"), device="cpu"),
        "pick": PickScore(str(root / "clip"), device="cpu"),
        "open": ClipScore(str(root / "open"), device="cpu"),
        "hps": HpsV2(str(root / "hps.pt"), architecture=ARCHITECTURE, device="cpu"),
    }
    for judge in found.values():
        judge.ready()
    return found


KINDS_OF_JUDGE = ("clip", "pick", "open", "hps")


def scored(judge: ClipJudge, captions: tuple[str, ...] = CAPTIONS) -> list[float]:
    given = judge.score_many([said(c) for c in captions], [shown(p) for p in PICTURES])
    return [scores["score"] for scores in given]


# ---------------------------------------------------------------- upstream's own numbers


@torch.no_grad()
def test_transformers_towers_give_their_own_logits(root: Path, judges: dict[str, ClipJudge]) -> None:
    model = CLIPModel.from_pretrained(root / "clip").eval()
    tokenizer = AutoTokenizer.from_pretrained(root / "clip")
    processor = CLIPImageProcessorPil.from_pretrained(root / "clip")
    tokens = tokenizer(list(CAPTIONS), padding=True, return_tensors="pt")
    inputs = processor(images=PICTURES, return_tensors="pt")
    logits = model(**tokens, pixel_values=inputs["pixel_values"]).logits_per_image.diagonal()
    assert scored(judges["pick"]) == pytest.approx(logits.tolist(), abs=1e-5)
    cosines = (logits / model.logit_scale.exp()).tolist()
    assert scored(judges["clip"]) == pytest.approx([100 * c for c in cosines], abs=1e-5)


@torch.no_grad()
def test_open_clip_towers_give_their_own_features(root: Path, judges: dict[str, ClipJudge]) -> None:
    name = f"local-dir:{root / 'open'}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)(list(CAPTIONS))
    pictures = torch.stack([preprocess(p) for p in PICTURES])
    looks, texts = model.encode_image(pictures, normalize=True), model.encode_text(tokens, normalize=True)
    assert scored(judges["open"]) == pytest.approx(
        (100 * (looks * texts).sum(-1)).tolist(), rel=1e-5, abs=2e-5
    )


@torch.no_grad()
def test_hps_reads_the_whole_picture(root: Path, judges: dict[str, ClipJudge]) -> None:
    """The longer side fills the input and black the rest, written out here for a picture twice as high."""
    model = build_open_clip().eval()
    tall = picture(3, (40, 80))
    canvas = Image.new("RGB", (SIDE, SIDE))
    canvas.paste(tall.resize((SIDE // 2, SIDE), Image.Resampling.BICUBIC), (SIDE // 4, 0))
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    normal = (pixels_of(canvas)[0] - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    tokens = open_clip.get_tokenizer(ARCHITECTURE)(["a red cat"])
    out = model(normal[None], tokens)
    expected = 100 * (out["image_features"] * out["text_features"]).sum().item()
    assert judges["hps"].score(said("a red cat"), shown(tall))["score"] == pytest.approx(expected, abs=1e-5)
    middle = ClipScore(str(root / "hps.pt"), architecture=ARCHITECTURE, device="cpu")
    assert abs(middle.score(said("a red cat"), shown(tall))["score"] - expected) > 0.1


# ---------------------------------------------------------------- batches, captions, pictures


@pytest.mark.parametrize("kind", KINDS_OF_JUDGE)
def test_batches_and_order_do_not_matter(judges: dict[str, ClipJudge], kind: str) -> None:
    judge = judges[kind]
    whole = scored(judge)
    assert len({round(value, 3) for value in whole}) == len(whole)
    for size in (1, 2):
        small = replace(judge, batch=size)
        assert scored(small) == pytest.approx(whole, abs=1e-4)
    backwards = judge.score_many([said(c) for c in CAPTIONS[::-1]], [shown(p) for p in PICTURES[::-1]])
    assert [s["score"] for s in backwards][::-1] == pytest.approx(whole, abs=1e-4)
    alone = judge.score(said(CAPTIONS[1]), shown(PICTURES[1]))
    assert alone == {"score": pytest.approx(whole[1], abs=1e-4)}
    assert judge.score_many([], []) == []


@pytest.mark.parametrize("kind", KINDS_OF_JUDGE)
def test_the_score_moves_with_the_picture_and_with_the_caption(
    judges: dict[str, ClipJudge], kind: str
) -> None:
    judge = judges[kind]
    first = judge.score(said("a red cat"), shown(picture(0)))["score"]
    assert abs(judge.score(said("blue box"), shown(picture(0)))["score"] - first) > 1e-2
    assert abs(judge.score(said("a red cat"), shown(picture(1)))["score"] - first) > 1e-2


def test_long_captions_are_cut_and_said_once(
    judges: dict[str, ClipJudge], caplog: pytest.LogCaptureFixture
) -> None:
    for kind in ("clip", "open"):
        judge = replace(judges[kind])
        judge.ready()
        caplog.clear()
        long = "cat box " * 60
        values = [judge.score(said(text), shown(PICTURES[0]))["score"] for text in (long, long + "red")]
        assert values[0] == pytest.approx(values[1], abs=1e-5)  # what follows the cut is not read
        told = [r.getMessage() for r in caplog.records if "cut" in r.getMessage()]
        assert len(told) == 1 and "longer than the scorer's 77 tokens" in told[0]
        caplog.clear()
        other = replace(judges[kind])
        other.score(said("a cat"), shown(PICTURES[0]))
        assert not [r for r in caplog.records if "cut" in r.getMessage()]


def test_a_loaded_judge_says_that_nothing_was_checked(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        PickScore(str(root / "clip"), device="cpu").ready()
    assert "pick_score from" in caplog.text and "not checked against published numbers" in caplog.text
    for cls in (ClipScore, PickScore, HpsV2):
        assert cls.unchecked and "Not checked against published numbers." in str(cls.__doc__)


def test_loading_shifts_nobodys_draws(root: Path) -> None:
    torch.manual_seed(7)
    HpsV2(str(root / "hps.pt"), architecture=ARCHITECTURE, device="cpu").ready()
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))


# ---------------------------------------------------------------- pixels with a gradient


@pytest.mark.parametrize("kind", KINDS_OF_JUDGE)
def test_pixels_score_like_pictures(judges: dict[str, ClipJudge], kind: str) -> None:
    """Sizes and shapes: equal, larger, and with a side that cannot be centred; cosines to 1e-3."""
    judge = judges[kind]
    assert isinstance(judge, ManyJudge) and isinstance(judge, PixelReward)
    for place, (image, expected) in enumerate(zip(PICTURES, scored(judge), strict=True)):
        with torch.no_grad():
            found = judge.reward(pixels_of(image), [CAPTIONS[place]])
        assert found.shape == (1,) and found.dtype == torch.float32
        assert found.item() == pytest.approx(expected, abs=100 * 1e-3), image.size


@pytest.mark.parametrize("kind", KINDS_OF_JUDGE)
def test_model_inputs_are_the_librarys_own(judges: dict[str, ClipJudge], kind: str) -> None:
    encoder = judges[kind].encoder
    level = torch.tensor(encoder.recipe.std)[:, None, None] * 255  # of 8 bits
    for image in [*PICTURES, picture(9, (31, 33)), picture(8, (20, 21)), picture(7, (99, 33))]:
        theirs, ours = encoder.load([image]), encoder.recipe.apply(pixels_of(image))
        assert theirs.shape == ours.shape
        apart = ((theirs - ours) * level).abs()  # PIL counts in whole numbers, which moves some near-halves
        assert apart.max() <= 1.001 and apart.mean() <= 0.03, image.size


@pytest.mark.parametrize("kind", KINDS_OF_JUDGE)
def test_gradient_reaches_every_picture_and_raises_its_score(judges: dict[str, ClipJudge], kind: str) -> None:
    judge = judges[kind]
    pixels = torch.cat([pixels_of(picture(i, (48, 40))) for i in range(2)]).requires_grad_()
    before = judge.reward(pixels, ["a red cat", "blue"])
    (gradient,) = torch.autograd.grad(before[1], pixels)
    assert gradient[1].abs().max() > 0 and gradient[0].abs().max() == 0
    stepped = (pixels + 2e-2 * gradient / gradient.abs().max()).detach()
    assert judge.reward(stepped, ["a red cat", "blue"])[1] > before[1]
    assert not any(p.requires_grad for p in judge.encoder.model.parameters())


def test_the_gradient_is_that_of_the_towers(root: Path, judges: dict[str, ClipJudge]) -> None:
    """Rounding to 8 bits leaves the gradient alone: that of upstream's model on the unrounded picture."""
    model = CLIPModel.from_pretrained(root / "clip").eval()
    tokens = AutoTokenizer.from_pretrained(root / "clip")("red", return_tensors="pt")
    pixels = pixels_of(picture(0)).requires_grad_()  # 8-bit values already: rounding keeps them
    (ours,) = torch.autograd.grad(judges["pick"].reward(pixels, ["red"]).sum(), pixels)
    mean, std = (torch.tensor(v)[:, None, None] for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    logits = model(**tokens, pixel_values=(pixels - mean) / std).logits_per_image
    (theirs,) = torch.autograd.grad(logits.sum(), pixels)
    assert torch.allclose(ours, theirs, atol=1e-4 * theirs.abs().max())


def test_a_tensor_scores_like_the_file_it_is_saved_to(judges: dict[str, ClipJudge]) -> None:
    torch.manual_seed(0)
    pixels = (pixels_of(picture(5)) + 0.3 * torch.randn(1, 3, SIDE, SIDE)).clamp(-0.2, 1.2)
    saved = Image.fromarray((pixels.clamp(0, 1) * 255).round()[0].permute(1, 2, 0).byte().numpy())
    expected = judges["clip"].score(said("red"), shown(saved))["score"]
    assert judges["clip"].reward(pixels, ["red"]).item() == pytest.approx(expected, abs=2e-2)


def test_autocast_around_it_changes_nothing(judges: dict[str, ClipJudge]) -> None:
    pixels = pixels_of(picture(0))
    plain = judges["clip"].reward(pixels, ["red"])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(judges["clip"].reward(pixels, ["red"]), plain)


def test_half_precision_pixels_are_taken(judges: dict[str, ClipJudge]) -> None:
    pixels = pixels_of(picture(0)).bfloat16().requires_grad_()
    judges["clip"].reward(pixels, ["red"]).sum().backward()
    assert pixels.grad is not None and pixels.grad.dtype == torch.bfloat16


# ---------------------------------------------------------------- names and refusals


def test_names_build_them_from_a_section() -> None:
    section = {"name": "clip_score", "path": "x", "batch": 4}
    assert build_named(KINDS["judge"], section, "judge", False) == ClipScore("x", 4)
    built = build_named(KINDS["judge"], {"name": "hps_v2", "path": "x"}, "judge", False)
    assert built == HpsV2("x") and built.architecture == "ViT-H-14"
    for wrong, message in [
        ({"name": "pick_score"}, "judge.path: this field is required"),
        ({"name": "pick_score", "path": " "}, "judge.path: must not be empty"),
        ({"name": "clip_score", "path": "x", "batch": 0}, "judge.batch: must be above 0, got 0"),
        ({"name": "clip_scores", "path": "x"}, "did you mean clip_score?"),
    ]:
        with pytest.raises(UserError, match=message):
            build_named(KINDS["judge"], wrong, "judge", False)


def refused(judge: ClipJudge) -> str:
    with pytest.raises(UserError) as caught:
        judge.ready()
    line = str(caught.value)
    assert "\n" not in line and len(line) < 400
    return line


def test_what_is_not_there_is_one_line(root: Path, tmp_path: Path) -> None:
    nowhere = str(tmp_path / "nowhere")
    assert refused(ClipScore(nowhere)) == f"clip_score: path: there is no folder or file {nowhere}"
    assert "hps_v2: path: there is no file" in refused(HpsV2(nowhere))
    assert "hps_v2: architecture: goes with a file" in refused(HpsV2(str(tmp_path)))
    checkpoint = str(root / "hps.pt")
    assert "architecture: name the open_clip model in" in refused(ClipScore(checkpoint))
    near = "architecture: open_clip has no 'ViT-H-41'; did you mean ViT-H-"
    assert near in refused(HpsV2(checkpoint, architecture="ViT-H-41"))
    assert "processor: is read with transformers folders" in refused(ClipScore(checkpoint, processor="x"))
    assert "names its own; remove it" in refused(ClipScore(str(root / "open"), architecture="ViT-H-14"))
    assert refused(ClipScore(str(tmp_path))).endswith("there is no config.json in this folder")
    assert "device: moon:3 cannot be used here" in refused(ClipScore(str(root / "clip"), device="moon:3"))


def test_weights_that_do_not_fit_are_one_line(root: Path, tmp_path: Path) -> None:
    other = "ViT-B-32"
    assert "clip_score: path:" in refused(ClipScore(str(root / "hps.pt"), architecture=other))
    cut = tmp_path / "cut.pt"
    cut.write_bytes((root / "hps.pt").read_bytes()[:2000])
    assert "clip_score: path:" in refused(ClipScore(str(cut), architecture=ARCHITECTURE))
    pickled = tmp_path / "pickled.pt"
    torch.save({"state_dict": {}, "code": CLIPModel}, pickled)
    assert "pickled code, which is not run" in refused(ClipScore(str(pickled), architecture=ARCHITECTURE))


def test_without_open_clip_its_models_are_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = refused(ClipScore(str(root / "open")))
    assert line == "clip_score: needs open_clip; pip install 'mmalign[clip]'"


def test_transformers_folders_that_are_not_whole(root: Path, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(root / "clip", tmp_path / name))

    bare = copy("bare")
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (bare / file).unlink(missing_ok=True)
    assert "clip_score: path:" in refused(ClipScore(str(bare)))
    whole = ClipScore(str(bare), processor=str(root / "clip"), device="cpu")
    same = ClipScore(str(root / "clip"), device="cpu")
    assert scored(whole) == pytest.approx(scored(same), abs=1e-6)

    lacking = copy("lacking")
    weights = load_file(lacking / "model.safetensors")
    weights.pop("visual_projection.weight")
    save_file(weights, lacking / "model.safetensors", {"format": "pt"})
    assert "lacks 1 tensors of the model, such as visual_projection.weight" in refused(
        ClipScore(str(lacking))
    )

    unseen = copy("unseen")
    (unseen / "preprocessor_config.json").unlink()
    assert refused(ClipScore(str(unseen))).endswith("there is no preprocessor_config.json in this folder")

    ragged = copy("ragged")
    settings = json.loads((ragged / "preprocessor_config.json").read_text())
    (ragged / "preprocessor_config.json").write_text(json.dumps({**settings, "do_center_crop": False}))
    assert "its processor must give pictures of one size" in refused(ClipScore(str(ragged)))
    (ragged / "preprocessor_config.json").write_text(json.dumps({**settings, "do_normalize": False}))
    assert "must resize (bilinear or bicubic), rescale" in refused(ClipScore(str(ragged)))

    bert = tmp_path / "bert"
    bert.mkdir()
    (bert / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "must hold a CLIP model, got model_type bert" in refused(ClipScore(str(bert)))


def test_scale_is_the_models(judges: dict[str, ClipJudge]) -> None:
    assert judges["pick"].encoder.scale == pytest.approx(math.exp(math.log(100)), rel=1e-5)
    texts = judges["pick"].encoder.texts(["red", "cat", "red"])
    assert torch.equal(texts[0], texts[2]) and not torch.equal(texts[0], texts[1])
    assert texts.norm(dim=-1) == pytest.approx(torch.ones(3), abs=1e-6)
    assert F.cosine_similarity(texts[0], texts[1], dim=0) < 0.999
