"""Vectors of pictures from a model's own tower."""

from pathlib import Path

import pytest
import torch
from tiny_vlm import build_vlm, clip, picture

from mmalign.adapters._vision_lm import VisionLM
from mmalign.completing import Seeing
from mmalign.types import Part, UserError


def shown(*numbers: int) -> list[Part]:
    return [Part("image", picture(number)) for number in numbers]


def test_equal_pictures_have_equal_vectors_whatever_is_beside_them(adapter: VisionLM) -> None:
    assert isinstance(adapter, Seeing)
    found = adapter.picture_vectors(adapter.policy, shown(1, 2, 1))
    assert found.dtype == torch.float32 and found.ndim == 2
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))
    assert torch.equal(found[0], found[2]) and not torch.allclose(found[0], found[1], atol=1e-3)
    assert torch.equal(adapter.picture_vectors(adapter.policy, shown(2)), found[1:2])


def test_vectors_are_means_over_what_the_projector_reads(vlm_folders: dict[str, Path]) -> None:
    adapter = build_vlm(vlm_folders["llava"])
    pixels = adapter.processor.image_processor(images=[picture(3)], return_tensors="pt")["pixel_values"]
    tower = adapter.policy.get_submodule("model.vision_tower")
    with torch.no_grad():
        states = tower(pixels, output_hidden_states=True).hidden_states[-2][0, 1:]  # without the class token
    wanted = torch.nn.functional.normalize(states.mean(0), dim=0)
    torch.testing.assert_close(adapter.picture_vectors(adapter.policy, shown(3))[0], wanted)


def test_clips_are_no_pictures(vlm_folders: dict[str, Path]) -> None:
    adapter = build_vlm(vlm_folders["llava"])
    with pytest.raises(UserError, match="picture 0.*of kind video"):
        adapter.picture_vectors(adapter.policy, [Part("video", clip(1))])
