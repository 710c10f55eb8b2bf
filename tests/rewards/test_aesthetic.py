"""The aesthetic head: its published layers, upstream's own computation, gradients, and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from rewards.tiny_clip import WIDTH, picture, pixels_of, said, save_transformers, shown
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPImageProcessorPil, CLIPModel

from mmalign._build import build_named
from mmalign._names import KINDS
from mmalign.rewards.aesthetic import Aesthetic
from mmalign.types import PixelReward, UserError


def published(width: int) -> nn.Module:
    """The layers of the published head, dropout included, as its own code names them."""
    torch.manual_seed(3)
    head = nn.Module()
    head.layers = nn.Sequential(
        nn.Linear(width, 1024), nn.Dropout(0.2), nn.Linear(1024, 128), nn.Dropout(0.2),
        nn.Linear(128, 64), nn.Dropout(0.1), nn.Linear(64, 16), nn.Linear(16, 1),
    )  # fmt: skip
    return head.eval()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("aesthetic")
    save_transformers(found / "clip")
    torch.save(published(WIDTH).state_dict(), found / "head.pth")
    return found


@pytest.fixture(scope="module")
def judge(root: Path) -> Aesthetic:
    return Aesthetic(path=str(root / "clip"), head=str(root / "head.pth"), device="cpu")


@torch.no_grad()
def test_it_is_the_published_computation(root: Path, judge: Aesthetic) -> None:
    model, head = CLIPModel.from_pretrained(root / "clip").eval(), published(WIDTH)
    processor = CLIPImageProcessorPil.from_pretrained(root / "clip")
    pictures = [picture(i, size) for i, size in enumerate([(32, 32), (50, 40), (40, 80)])]
    inputs = processor(images=pictures, return_tensors="pt")["pixel_values"]
    features = model.get_image_features(pixel_values=inputs).pooler_output.numpy()
    features = features / np.linalg.norm(features, 2, -1, keepdims=True)
    expected = head.layers(torch.from_numpy(features))[:, 0].tolist()
    given = judge.score_many([said("x")] * 3, [shown(p) for p in pictures])
    assert [s["score"] for s in given] == pytest.approx(expected, abs=1e-5)
    assert len(set(expected)) == 3
    assert judge.score(said("another caption"), shown(pictures[1]))["score"] == pytest.approx(
        expected[1], abs=1e-5
    )


def test_the_published_width_is_taken(root: Path) -> None:
    head = published(768)
    torch.save(head.state_dict(), root / "wide.pth")
    wide = Aesthetic(path=str(root / "clip"), head=str(root / "wide.pth"), device="cpu")
    with pytest.raises(UserError, match="reads 768 numbers of a picture and the tower in .* gives 16"):
        wide.ready()


def test_pixels_and_gradient(judge: Aesthetic) -> None:
    assert isinstance(judge, PixelReward)
    pixels = torch.cat([pixels_of(picture(i)) for i in range(2)]).requires_grad_()
    scores = judge.reward(pixels, ["", ""])
    files = judge.score_many([said("")] * 2, [shown(picture(i)) for i in range(2)])
    assert scores.tolist() == pytest.approx([s["score"] for s in files], abs=1e-3)
    (gradient,) = torch.autograd.grad(scores[0], pixels)
    assert gradient[0].abs().max() > 0 and gradient[1].abs().max() == 0
    assert not any(p.requires_grad for p in judge.layers.parameters())


def test_autocast_around_it_changes_nothing(judge: Aesthetic) -> None:
    pixels = pixels_of(picture(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = judge.reward(pixels, [""])
    assert torch.equal(found, judge.reward(pixels, [""]))


def test_safetensors_and_halves_are_read(root: Path, judge: Aesthetic) -> None:
    file = root / "head.safetensors"
    save_file({k: v.half() for k, v in published(WIDTH).state_dict().items()}, file)
    other = Aesthetic(path=judge.path, head=str(file), device="cpu")
    part = shown(picture(0))
    assert other.score(said(""), part)["score"] == pytest.approx(
        judge.score(said(""), part)["score"], abs=5e-3
    )


def test_heads_that_do_not_fit_are_one_line(root: Path, tmp_path: Path) -> None:
    def refused(state: dict[str, Tensor] | list[int] | None) -> str:
        file = tmp_path / "some.pth"
        file.unlink(missing_ok=True)
        if state is not None:
            torch.save(state, file)
        with pytest.raises(UserError) as caught:
            Aesthetic(path=str(root / "clip"), head=str(file), device="cpu").ready()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    good = published(WIDTH).state_dict()
    assert "aesthetic: head: there is no file" in refused(None)
    assert "must hold tensors by name" in refused([1, 2])
    lacking = {k: v for k, v in good.items() if k != "layers.7.bias"}
    assert "layers.7.bias has shape none, the published head (1,)" in refused(lacking)
    wrong = {**good, "layers.4.weight": torch.zeros(64, 127)}
    assert "layers.4.weight has shape (64, 127), the published head (64, 128)" in refused(wrong)
    assert "has shape (3,), the published head none" in refused({**good, "more": torch.zeros(3)})
    assert "layers.0.bias has shape none" in refused({})
    with pytest.raises(UserError, match="judge.head: this field is required"):
        build_named(KINDS["judge"], {"name": "aesthetic", "path": "x"}, "judge", False)
    with pytest.raises(UserError, match="judge.head: must name a file"):
        build_named(KINDS["judge"], {"name": "aesthetic", "path": "x", "head": ""}, "judge", False)
