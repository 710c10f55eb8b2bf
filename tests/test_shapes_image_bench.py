"""The benchmark of objectives on the built-in image model: its unseen style, its counts and its table."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

sys.path.append(str(Path(__file__).parents[1] / "scripts" / "bench"))

import _image_rounds  # noqa: E402
import _image_runs  # noqa: E402
import _image_table  # noqa: E402
import shapes_image  # noqa: E402
from _tinted import TintedPairs, TintJudge  # noqa: E402


def test_the_tint_is_read_off_the_ground_and_harms_no_fact() -> None:
    judge = TintJudge()
    for sample in TintedPairs(num=40).samples():
        for role, style in (("chosen", 1.0), ("rejected", 0.0)):
            (example,) = sample.examples[role]
            found = judge.score(example.prompt, example.response[0])
            assert found["style"] == pytest.approx(style, abs=1e-9)
            assert found["faithfulness"] == 1.0 and found["score"] == pytest.approx(1 + style / 2)


def cell(name: str, seed: int, score: list[float], **more: Any) -> dict[str, Any]:
    flat = [1.0] * len(score)
    return {
        "run": name,
        "seed": seed,
        "split": "heldout",
        "lr": 5e-4,
        "score": score,
        "solid": score,
        "faithfulness": flat,
        **more,
    }


def test_a_row_of_the_table_counts_wins_and_half_of_the_ties() -> None:
    ran = {"steps": 80, "batch": 8, "passes": 5120, "cpu_seconds": 12.0, "drift": [0.001] * 4}
    cells = [cell("base", 0, [0.5, 0.5, 0.5, 0.5])]
    cells += [cell("dpo", seed, [0.6, 0.6, 0.5, 0.4 + seed], **ran) for seed in (0, 1)]
    row = _image_table.table(cells, _image_runs.ARMS).splitlines()[-1]
    assert row.startswith("| dpo | 0.0005 | 80 | 75.0% [") and "(62/88)" in row
    assert row.endswith("| 1.00 | 5.1 | 12 |")


def test_first_seeds_come_first_and_all_configs_are_there() -> None:
    planned = list(shapes_image.order(_image_runs.ARMS))
    assert [seed for _, seed in planned] == sorted(seed for _, seed in planned)
    assert len(planned) == sum(arm.seeds for arm in _image_runs.ARMS)
    for arm in _image_runs.ARMS:
        assert (_image_runs.CONFIGS / f"{arm.config}.yaml").is_file()


def test_passes_with_a_gradient_count_three() -> None:
    unet = UNet2DConditionModel(
        sample_size=4,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=8,
        mid_block_type=None,
    )
    given = (torch.zeros(2, 4, 4, 4), torch.tensor(1), torch.zeros(2, 3, 8))
    plain = UNet2DConditionModel.forward
    with _image_runs.counted() as passes:
        unet(*given)
        with torch.no_grad():
            unet(*given)
    assert passes.total == 2 * 3 + 2
    assert UNet2DConditionModel.forward is plain


def test_rounds_are_measured_by_what_they_were_rewarded_by() -> None:
    """Against the base as it samples with noise, not against the rows of the other table."""
    ran = {"steps": 40, "passes": 64000, "cpu_seconds": 200.0, "drift": [0.002] * 4, "judged": 640}
    cells = [cell("base", 0, [9.0] * 4), cell("base, noisy sampler", 0, [0.5] * 4, brightness=[0.1] * 4)]
    cells.append(cell("light: ddpo", 0, [0.1] * 4, brightness=[0.2, 0.2, 0.1, 0.0], rounds=[0.1, 0.3], **ran))
    lines = _image_rounds.rounds_table(cells, _image_runs.ARMS).splitlines()
    assert len(lines) == 3 and len(_image_table.table(cells, _image_runs.ARMS).splitlines()) == 2
    assert lines[2].startswith("| light: ddpo | 0.0005 | 40 | 640 | 0.100 -> 0.125 | +0.025 [")
    assert "| 62.5% [" in lines[2] and lines[2].endswith("| 0.100 -> 0.300 | 2.00 | 64.0 | 200 |")


def test_rounds_are_read_from_their_records(tmp_path: Path) -> None:
    for number in range(12):
        folder = tmp_path / "rounds" / f"{number:05d}"
        folder.mkdir(parents=True)
        (folder / "round.json").write_text(json.dumps({"scores": [number, number + 1.0]}))
    told = _image_runs.told_of_rounds(tmp_path)
    assert told == {"judged": 24, "rounds": [1.0, 3.0, 5.0, 7.0, 9.0, 11.0]}
