"""Denscore: the worked numbers of the reweighting, sentences, directions from files, and refusals."""

from pathlib import Path

import pytest
import torch
from rewards.tiny_clip import picture, pixels_of, said, save_transformers, shown
from safetensors.torch import save_file
from torch import Tensor

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.rewards.denscore import Denscore, common_direction, reweighted, sentences
from mmalign.types import PixelReward, UserError

TEXTS = torch.tensor([[1.0, 0, 0], [0.6, 0.8, 0]])
PICTURES = torch.tensor([[0.8, 0, 0.6], [0.0, 1, 0]])
CAPTIONS = ["a red cat. a blue box", "cat! red cat; box"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_transformers(tmp_path_factory.mktemp("denscore") / "clip")


def pixels() -> Tensor:
    return torch.cat([pixels_of(picture(i)) for i in range(2)])


def test_the_worked_numbers() -> None:
    direction = common_direction(TEXTS)
    assert direction.tolist() == pytest.approx([0.894427, 0.447214, 0], abs=1e-6)
    assert (TEXTS * PICTURES).sum(-1).tolist() == pytest.approx([0.8, 0.8])
    scores = (reweighted(TEXTS, direction, 0.3) * PICTURES).sum(-1)
    assert scores.tolist() == pytest.approx([0.352, 0.52], abs=1e-6)
    loss = (1 - scores.mean()) / 2 - 0.09 * (1 - 0.3)
    assert loss.item() == pytest.approx(0.219, abs=1e-6)
    assert torch.allclose(reweighted(TEXTS, direction, 1.0), TEXTS)
    assert (reweighted(TEXTS, direction, 0.0) @ direction).abs().max() < 1e-6


def test_sentences() -> None:
    assert sentences("A cat. It sits!  Why? here; there") == ["A cat.", "It sits!", "Why?", "here;", "there"]
    assert sentences("3.5 cats") == ["3.5 cats"] and sentences("") == [""]
    assert sentences(" one. ") == ["one."]


def test_a_caption_is_the_mean_of_its_sentences(folder: str) -> None:
    judge = Denscore(path=folder, device="cpu")
    embedded = judge.caption_embeddings(CAPTIONS)
    first = judge.encoder.texts(["a red cat.", "a blue box"]).mean(0)
    second = judge.encoder.texts(["cat!", "red cat;", "box"]).mean(0)
    assert torch.allclose(embedded, torch.stack([first, second]), atol=1e-6)
    assert embedded.norm(dim=-1).max() < 0.999


def test_rewards_take_the_direction_from_their_captions_or_from_a_file(folder: str, tmp_path: Path) -> None:
    judge = Denscore(path=folder, device="cpu")
    assert isinstance(judge, PixelReward)
    texts, seen = judge.caption_embeddings(CAPTIONS), judge.encoder.pixels(pixels())
    expected = (reweighted(texts, common_direction(texts), 0.3) * seen).sum(-1)
    assert torch.allclose(judge.reward(pixels(), CAPTIONS), expected, atol=1e-6)
    file = tmp_path / "v.safetensors"
    judge.save_direction(CAPTIONS, file)
    fixed = Denscore(path=folder, common=str(file), device="cpu")
    assert torch.allclose(fixed.reward(pixels(), CAPTIONS), expected, atol=1e-6)
    alone = torch.cat([fixed.reward(pixels()[i : i + 1], CAPTIONS[i : i + 1]) for i in range(2)])
    assert torch.allclose(alone, expected, atol=1e-5)  # a fixed direction: no batch matters
    assert (judge.reward(pixels()[:1], CAPTIONS[:1]) - expected[:1]).abs().item() > 1e-3


def test_single_responses_are_scored_whatever_the_batch(folder: str, tmp_path: Path) -> None:
    prompts, parts = [said(c) for c in CAPTIONS], [shown(picture(i)) for i in range(2)]
    plain = Denscore(path=folder, device="cpu")
    whole = [s["score"] for s in plain.score_many(prompts, parts)]
    texts, seen = plain.caption_embeddings(CAPTIONS), plain.encoder.pictures([picture(i) for i in range(2)])
    assert whole == pytest.approx((texts * seen).sum(-1).tolist(), abs=1e-6)
    file = tmp_path / "v.safetensors"
    plain.save_direction(["red", "cat", "box"], file)
    fixed = Denscore(path=folder, common=str(file), device="cpu")
    together = [s["score"] for s in fixed.score_many(prompts, parts)]
    assert together == pytest.approx([fixed.score(*one)["score"] for one in zip(prompts, parts, strict=True)])
    assert together != pytest.approx(whole, abs=1e-3)
    assert fixed.reward(pixels(), CAPTIONS).tolist() == pytest.approx(together, abs=1e-3)


def test_gradients_reach_the_pixels_and_not_the_texts(folder: str) -> None:
    given = pixels().requires_grad_()
    judge = Denscore(path=folder, device="cpu")
    (gradient,) = torch.autograd.grad(judge.reward(given, CAPTIONS)[0], given)
    assert gradient[0].abs().max() > 0 and gradient[1].abs().max() == 0


def test_autocast_around_it_changes_nothing(folder: str) -> None:
    judge = Denscore(path=folder, device="cpu")
    with torch.autocast("cpu", torch.bfloat16):
        found = judge.reward(pixels(), CAPTIONS)
    assert torch.equal(found, judge.reward(pixels(), CAPTIONS))


def test_what_does_not_fit_is_one_line(folder: str, tmp_path: Path) -> None:
    def refused(tensors: dict[str, Tensor] | None) -> str:
        file = tmp_path / "some.safetensors"
        file.unlink(missing_ok=True)
        if tensors is not None:
            save_file(tensors, file)
        with pytest.raises(UserError) as caught:
            Denscore(path=folder, common=str(file), device="cpu").ready()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "denscore: common: there is no file" in refused(None)
    assert "must hold a tensor 'direction', has ['other']" in refused({"other": torch.ones(16)})
    assert "must have shape [16], got [17]" in refused({"direction": torch.ones(17)})
    assert "must be finite and not zero" in refused({"direction": torch.zeros(16)})
    for section, message in [
        ({"keep": 1.5}, r"judge.keep: must lie in \[0, 1\], got 1.5"),
        ({"keep": 1.0, "common": "v"}, "judge.common: is not read with keep 1"),
    ]:
        with pytest.raises(UserError, match=message):
            build_named(KINDS["judge"], {"name": "denscore", "path": "x", **section}, "judge", False)
