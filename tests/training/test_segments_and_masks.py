"""Labels inside a pair, in whole runs: segments of clips under DenseDPO, regions of pictures under DPO."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_families as tiny
from adapters import tiny_sd
from PIL import Image
from tiny_runs import largest_gap, losses, metrics, weights

from mmalign import api
from mmalign.builders._media import encoded
from mmalign.config import RunConfig, from_tree
from mmalign.training.checks import check_config
from mmalign.training.run import run
from mmalign.types import Clip, Part, UserError

LABELS = [[1, -1, 0], [1], [0, 1], [-1, -1]]  # rows may be cut into different numbers of segments


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Tiny models; pairs of clips with labels per segment; pairs of pictures with masks."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    base = tmp_path_factory.mktemp("inside")
    tiny.FAMILIES["modelscope"](base / "modelscope", 0)
    tiny_sd.save_pipeline(base / "sd")
    write_clips(base)
    write_pictures(base)
    yield base
    torch.set_num_threads(threads)


def write_clips(base: Path) -> None:
    rows = []
    for i, label in enumerate(LABELS):
        for k, role in enumerate(("chosen", "rejected")):
            stream = torch.Generator().manual_seed(2 * i + k)
            pixels = torch.randint(0, 256, (4, 3, 16, 16), generator=stream).to(torch.uint8)
            clip = Clip(pixels, tuple(range(4)), tuple(j / 8 for j in range(4)), 8.0, 4, "memory")
            (base / f"{role}-{i}.mkv").write_bytes(encoded(Part("video", clip), "test")[0])
        sides = {role: {"video": f"{role}-{i}.mkv"} for role in ("chosen", "rejected")}
        rows.append({"id": f"c{i}", "prompt": f"cat {i}", "segments": label, **sides})
    (base / "clips.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def write_pictures(base: Path) -> None:
    """Both pictures of a pair are equal but for the left half of the chosen one, where the mask is white."""
    rows = []
    for i in range(4):
        plain, other = tiny_sd.picture(i), tiny_sd.picture(10 + i)
        plain.save(base / f"r{i}.png")
        plain.paste(other.crop((0, 0, 16, 32)), (0, 0))
        plain.save(base / f"w{i}.png")
        mask = Image.new("L", (32, 32))
        mask.paste(255, (0, 0, 16, 32))
        mask.save(base / f"m{i}.png")
        sides = {"chosen_image": f"w{i}.png", "rejected_image": f"r{i}.png"}
        rows.append({"id": f"p{i}", "prompt": f"cat {i}", "mask": f"m{i}.png", **sides})
    (base / "pictures.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")


def config(folder: Path, kind: str, output: str, **sections: Any) -> RunConfig:
    clips = {"resolution": 16, "frames": {"sampling": "leading", "count": 4, "fps": 8.0}}
    name, more = ("modelscope", clips) if kind == "clips" else ("sd", {"vae_sample": False})
    tree: dict[str, Any] = {
        "model": {"adapter": "diffusion", "path": str(folder / name), **more},
        "data": {"source": "jsonl", "path": str(folder / f"{kind}.jsonl")},
        "objective": {"name": "densedpo" if kind == "clips" else "dpo", "beta": 2000},
        "lora": {"rank": 4},
        "train": {"steps": 2, "batch": 4, "lr": 1e-3},
        "log": {"every": 1, "progress": False},
        "cache": str(folder / "cache"),
        "output": str(folder / output),
    }
    if kind == "pictures":
        tree["transforms"] = [{"name": "region_mask"}]
    for name, value in sections.items():
        tree[name] = {**tree.get(name, {}), **value} if isinstance(value, dict) else value
    made = from_tree(tree, "test")
    check_config(made)
    return made


def test_segments_train_from_ln_2_and_go_on(folder: Path) -> None:
    """Every segment of the tiny clips is labelled in some row; a stopped run goes on with equal bits."""
    whole = run(config(folder, "clips", "dense"))
    found = losses(whole)
    assert found[0] == pytest.approx(math.log(2), abs=1e-6)
    assert all(math.isfinite(loss) for loss in found) and found[1] != found[0]
    assert metrics(whole)[0]["segments"] == pytest.approx((2 + 1 + 1 + 2) / 4)
    run(config(folder, "clips", "parts", train={"steps": 1}))
    parts = run(config(folder, "clips", "parts"))
    assert largest_gap(weights(whole, 2), weights(parts, 2)) == 0.0


def test_one_segment_of_every_clip_is_dpo(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]
    whole = folder / "whole.jsonl"
    whole.write_text("\n".join(json.dumps({**row, "segments": [1]}) for row in rows) + "\n")
    data = {"path": str(whole)}
    train = {"eps": 1e-3}  # below it Adam makes whole steps of the rounding in gradients that are nearly zero
    dense = run(config(folder, "clips", "one-dense", data=data, train=train))
    plain = run(config(folder, "clips", "one-plain", data=data, train=train, objective={"name": "dpo"}))
    assert abs(losses(dense)[1] - losses(dense)[0]) > 5e-3
    assert losses(dense) == pytest.approx(losses(plain), abs=2e-5)


def test_swapped_sides_and_signs_are_the_same_pair(folder: Path) -> None:
    """All pairs with their sides swapped: what was better in a segment is worse, and the label follows."""
    sections: dict[str, Any] = {"train": {"draws": "fixed:1", "lr": 1e-2}}
    plain = metrics(run(config(folder, "clips", "sides", **sections)))
    rows = [json.loads(line) for line in (folder / "clips.jsonl").read_text().splitlines()]
    for row in rows:
        row["chosen"], row["rejected"] = row["rejected"], row["chosen"]
        row["segments"] = [-one for one in row["segments"]]
    path = folder / "turned.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    turned = metrics(run(config(folder, "clips", "turned", data={"path": str(path)}, **sections)))
    assert [line["loss"] for line in turned] == pytest.approx([line["loss"] for line in plain], abs=1e-4)
    assert plain[-1]["loss"] != pytest.approx(math.log(2), abs=1e-3)


def test_cached_reference_scores_are_kept_by_segment(folder: Path) -> None:
    """The same rows and draws were scored whole before: those entries must not be taken for these."""
    sections: dict[str, Any] = {"train": {"draws": "fixed:2"}, "reference": {"name": "cached"}}
    run(config(folder, "clips", "cached-dpo", objective={"name": "dpo"}, **sections))
    cached = losses(run(config(folder, "clips", "cached", **sections)))
    live = losses(run(config(folder, "clips", "live", train={"draws": "fixed:2"})))
    assert cached == pytest.approx(live, abs=2e-4)


def test_segments_and_whole_predictions_exclude_each_other(folder: Path) -> None:
    with pytest.raises(UserError, match="needs whole predictions, which are not kept by segment"):
        config(folder, "clips", "both", transforms=[{"name": "sdpo"}])


def test_masks_weigh_errors_by_region(folder: Path) -> None:
    """The run starts at ln 2 and departs from one without masks; the error is the masked mean."""
    masked = run(config(folder, "pictures", "masked"))
    plain = run(config(folder, "pictures", "plain", transforms=[]))
    assert losses(masked)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert api.export(masked, folder / "export", True) < 1e-4  # its probe reads rows as the run does
    assert all(math.isfinite(loss) for loss in losses(masked)) and losses(masked)[1] != losses(plain)[1]
    guarded = config(folder, "pictures", "guarded", transforms=[{"name": "region_mask"}, {"name": "sdpo"}])
    found = metrics(run(guarded))
    assert found[0]["loss"] == pytest.approx(math.log(2), abs=1e-6) and "loser_scale" in found[0]


def test_a_white_mask_is_none(folder: Path) -> None:
    rows = [json.loads(line) for line in (folder / "pictures.jsonl").read_text().splitlines()]
    white = folder / "white.jsonl"
    white.write_text("\n".join(json.dumps({**row, "mask": [[1]]}) for row in rows) + "\n")
    data = {"path": str(white)}
    masked = losses(run(config(folder, "pictures", "white", data=data)))
    plain = losses(run(config(folder, "pictures", "bare", data=data, transforms=[])))
    assert masked == pytest.approx(plain, abs=1e-4)


def test_encoded_rows_bring_their_masks_again(folder: Path) -> None:
    """A second run finds every row encoded and decodes no picture, but reads the masks."""
    sections: dict[str, Any] = {"cache": str(folder / "again")}
    first = run(config(folder, "pictures", "first", **sections))
    second = run(config(folder, "pictures", "second", **sections))
    assert largest_gap(weights(first, 2), weights(second, 2)) == 0.0


def test_masks_that_would_not_lie_over_their_pictures_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="model.flip: mirrors pictures and not the label mask"):
        config(folder, "pictures", "mirrored", model={"flip": True})
    with pytest.raises(UserError, match="region_mask computes errors anew and must stand first"):
        config(folder, "pictures", "order", transforms=[{"name": "sdpo"}, {"name": "region_mask"}])
    rows = [json.loads(line) for line in (folder / "pictures.jsonl").read_text().splitlines()]
    tiny_sd.picture(1, 40, 32).save(folder / "wide.png")
    wide = folder / "wide.jsonl"
    wide.write_text(json.dumps({**rows[0], "rejected_image": "wide.png"}) + "\n")
    cropped = config(folder, "pictures", "cropped", data={"path": str(wide)}, train={"batch": 1})
    with pytest.raises(UserError, match="wide.jsonl.*rejected of 40 x 32 loses its edges at 32 x 32"):
        run(cropped)
    assert "loses its edges" in str(api.check(cropped).reasons)
    run(config(folder, "pictures", "unmasked", data={"path": str(wide)}, train={"batch": 1}, transforms=[]))
