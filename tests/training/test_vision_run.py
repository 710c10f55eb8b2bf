"""Vision- and video-language models through whole runs: equal starts, exact resume, equal settings."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_vlm
from data.clips import KINDS, video
from tiny_runs import Bench, add_vision, largest_gap, losses, metrics, weights

from mmalign import api
from mmalign.cli import main
from mmalign.config import from_tree
from mmalign.training.finished import open_run
from mmalign.training.run import run
from mmalign.types import UserError


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bench = Bench(tmp_path_factory.mktemp("bench"))
    add_vision(bench)
    yield bench
    torch.set_num_threads(threads)


SETTINGS: dict[str, dict[str, Any]] = {
    "full": {"train": {"micro_batch": 2}},
    "lora": {"lora": {"rank": 4}},
    "projector": {"lora": {"rank": 4}, "model": {"trains": ["language", "projector"]}},
    "vision": {"model": {"trains": ["vision"]}},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_runs_start_at_ln_2_and_go_on_bit_for_bit(bench: Bench, name: str) -> None:
    def config(output: str, steps: int) -> Any:
        sections = {**SETTINGS[name], "train": {"steps": steps, **SETTINGS[name].get("train", {})}}
        kind = "seeing" if name == "vision" else "vlm"
        return bench.config(kind, f"{name}-{output}", **sections)

    whole = run(config("whole", 3))
    run(config("parts", 1))
    parts = run(config("parts", 3))
    assert losses(whole)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert largest_gap(weights(whole, 3), weights(parts, 3)) == 0.0
    assert (whole / "metrics.jsonl").read_bytes() == (parts / "metrics.jsonl").read_bytes()
    assert losses(whole)[-1] != losses(whole)[0]
    notes = json.loads((whole / "run.json").read_text())["notes"]
    assert any("largest log-ratio per unit at the start is 0" in note for note in notes)


@pytest.fixture(scope="module")
def plain(bench: Bench) -> Path:
    return run(bench.config("vlm", "plain", lora={"rank": 4}))


@pytest.mark.parametrize(
    ("name", "change"),
    {
        "micro batches": {"train": {"micro_batch": 2}},
        "recomputed activations": {"train": {"checkpointing": True}},
        "two workers": {"train": {"workers": 2}},
        "cached reference": {"reference": {"name": "cached"}},
        "no cache on disk": {"cache": None},
    }.items(),
)
def test_settings_that_must_not_change_the_result(
    bench: Bench, plain: Path, name: str, change: dict[str, Any]
) -> None:
    other = run(bench.config("vlm", name.replace(" ", "-"), lora={"rank": 4}, **change))
    assert losses(other) == pytest.approx(losses(plain), abs=1e-6)
    assert largest_gap(weights(other, 4), weights(plain, 4)) < 1e-5


@pytest.mark.parametrize("objective", ["hinge", "rdpo", "simpo", "mdpo", "ipo", "kto", "sft"])
@pytest.mark.parametrize("family", ["llava", "smolvlm"])
def test_every_objective_trains_other_families(bench: Bench, objective: str, family: str) -> None:
    if family not in [Path(m["path"]).name for m in bench.model.values()]:
        tiny_vlm.save_vlm(family, bench.folder / family)
        bench.model[family] = {"adapter": "vlm", "path": str(bench.folder / family)}
    config = bench.config(
        "seeing",
        f"{family}-{objective}",
        model={"path": str(bench.folder / family)},
        objective={"name": objective},
        train={"steps": 2},
        lora={"rank": 4},
    )
    found = losses(run(config))
    assert len(found) == 2 and all(math.isfinite(loss) for loss in found)


def test_the_margin_without_the_picture_is_measured(bench: Bench) -> None:
    output = run(bench.config("vlm", "imageless", data={"heldout": 4}, lora={"rank": 4}))
    held = [line for line in metrics(output) if "heldout/loss" in line]
    for line in held:
        share = line["heldout/margin_with_image"] - line["heldout/margin_without_image"]
        assert line["heldout/image_share"] == pytest.approx(share, abs=1e-5)
        assert abs(share) > 1e-4


def test_what_trains_is_said_at_the_start(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    run(bench.config("vlm", "table", lora={"rank": 4}, train={"steps": 1}))
    lines = capsys.readouterr().err.splitlines()
    (language,) = [line for line in lines if line.split()[:2] == ["trains:", "language"]]
    (vision,) = [line for line in lines if line.split()[:2] == ["trains:", "vision"]]
    assert "LoRA" in language and "frozen" in vision


def test_mdpo_needs_a_picture(bench: Bench) -> None:
    config = bench.config("vlm", "mdpo-mixed", objective={"name": "mdpo"}, lora={"rank": 4})
    with pytest.raises(UserError, match="holds no picture"):
        run(config)


@pytest.mark.parametrize("on_error", ["stop", "skip"])
def test_a_row_without_a_partner_is_found_before_the_first_step(bench: Bench, on_error: str) -> None:
    """Its prompt holds more pictures than any other may replace: all others are beginnings of it."""
    folder = bench.folder / "photos"
    rows = [
        {"id": f"row-{i}", "prompt": "what?", "images": names, "chosen": "yes", "rejected": f"no {i}"}
        for i, names in enumerate([["1.png"], ["1.png", "2.png"], ["1.png", "2.png", "3.png"]])
    ]
    path = folder / f"alone-{on_error}.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    config = bench.config(
        "seeing",
        f"alone-{on_error}",
        data={"path": str(path), "on_error": on_error},
        objective={"name": "mdpo", "corruption": "other_image"},
        lora={"rank": 2},
        train={"steps": 1, "batch": 2},
    )
    if on_error == "stop":
        with pytest.raises(UserError, match="needs a row of the same source with other media"):
            run(config)
        assert not Path(config.output, "metrics.jsonl").exists()
        return
    record = json.loads((run(config) / "run.json").read_text())
    assert record["data"]["left_out"] == 1


# ---------------------------------------------------------------- clips


@pytest.fixture(scope="module")
def clips(bench: Bench) -> Path:
    """Pairs about small files; the model is Qwen2.5-VL."""
    folder = bench.folder / "clips"
    folder.mkdir()
    for i in range(4):
        (folder / f"{i}.mp4").write_bytes(video(KINDS["mpeg4"], count=6 + i))
    rows = [
        {
            "id": f"clip-{i}",
            "prompt": f"what moves {i}?",
            "videos": [f"{i % 4}.mp4"],
            "chosen": "a red fox",
            "rejected": "the sky" if i % 2 else "a box, perhaps",
        }
        for i in range(8)
    ]
    path = folder / "pairs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    bench.model["video"] = {
        **bench.model["vlm"],
        "adapter": "video_lm",
        "frames": {"count": 4},
    }
    bench.data["video"] = {"source": "jsonl", "path": str(path)}
    return path


@pytest.mark.parametrize("objective", [{"name": "dpo"}, {"name": "mdpo", "corruption": "reversed_frames"}])
def test_a_video_run_starts_at_its_reference_and_goes_on(
    bench: Bench, clips: Path, objective: dict[str, Any]
) -> None:
    def config(output: str, steps: int) -> Any:
        name = f"video-{objective['name']}-{output}"
        sections = {"objective": objective, "lora": {"rank": 4}, "train": {"steps": steps, "batch": 4}}
        return bench.config("video", name, **sections)

    whole = run(config("whole", 3))
    run(config("parts", 2))
    parts = run(config("parts", 3))
    terms = 3 if objective["name"] == "mdpo" else 1
    assert losses(whole)[0] == pytest.approx(terms * math.log(2), abs=1e-5)
    assert largest_gap(weights(whole, 3), weights(parts, 3)) == 0.0


def test_a_clip_for_a_model_of_pictures_is_refused(bench: Bench, clips: Path) -> None:
    tree = bench.tree("video", "refused")
    tree["model"] = dict(bench.model["vlm"])
    with pytest.raises(UserError, match="videos need model.adapter: video_lm"):
        run(from_tree(tree, "test"))


# ---------------------------------------------------------------- finished runs


@pytest.mark.parametrize("lora", [None, {"rank": 4}])
def test_a_finished_run_answers_is_exported_and_loads_upstream(
    bench: Bench, lora: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor

    output = run(
        bench.config(
            "vlm",
            f"finished-{lora is None}",
            lora=lora,
            model={"generation": {"max_new_tokens": 6}},
            data={"heldout": 4},
            train={"lr": 1e-2},
        )
    )
    photo = bench.folder / "photos" / "1.png"
    arguments = ["sample", str(output), "--prompt", "what is it?", "--image"]
    assert main([*arguments, str(photo)]) == 0
    with_one = capsys.readouterr().out
    assert main([*arguments, str(bench.folder / "photos" / "4.png")]) == 0
    assert capsys.readouterr().out != with_one
    assert main([*arguments, str(tmp_path / "none.png")]) == 2
    assert "there is no file" in capsys.readouterr().err
    assert main(["sample", str(output), "--prompt", "x", "--video", str(photo)]) == 2
    assert "reads no video" in capsys.readouterr().err
    assert api.export(output, tmp_path / "merged", merge=lora is not None) < 1e-5
    AutoProcessor.from_pretrained(tmp_path / "merged")
    theirs = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged").eval()
    with open_run(output).tuned() as ours:
        ids = torch.tensor([[4, 60, 61, 62]])
        gap = (ours(input_ids=ids).logits - theirs(input_ids=ids).logits).abs().max()
        if lora is not None:
            base = AutoModelForImageTextToText.from_pretrained(bench.model["vlm"]["path"])
            adapted = PeftModel.from_pretrained(base, output / "final").eval()
            assert float((ours(input_ids=ids).logits - adapted(input_ids=ids).logits).abs().max()) < 1e-5
    assert float(gap.detach()) < 1e-4
    comparison = api.evaluate(output, num_prompts=3)
    assert len(comparison.rows) == 3
    assert (output / "report.html").is_file()
