"""One adapter, two ways to answer: by its config, and by settings that somebody else names."""

from dataclasses import replace
from pathlib import Path

import torch
from tiny_vlm import build_vlm, looking, picture, save_vlm

from mmalign.adapters._text_sampling import Sampling


def test_other_settings_over_the_same_weights(tmp_path: Path) -> None:
    save_vlm("llava", tmp_path)
    own = build_vlm(tmp_path, generation=Sampling(max_new_tokens=8))
    settings = own.config.generation
    twin = own.answering(replace(settings, temperature=0.0, max_new_tokens=4))
    assert twin.policy is own.policy and own.config.generation is settings
    with torch.no_grad():
        asked = [looking(picture(1))] * 3
        sampled, greedy = (one.generate(own.policy, asked, [1, 2, 3]) for one in (own, twin))
        best = own.attend(own.policy, asked[:1], 0)
    assert len({one.data for one in sampled}) > 1 and len({one.data for one in greedy}) == 1
    assert best[0].answer.data.startswith(greedy[0].data) and best[0].answer.data != greedy[0].data
