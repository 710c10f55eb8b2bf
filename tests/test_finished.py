"""Runs read back: base and trained model behind their switches, merging, exports that leave them alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from adapters import tiny_sd
from bad_models import halve
from diffusers import StableDiffusionPipeline
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file
from torch import Tensor, nn
from training.tiny_runs import Bench, same_files, weights
from transformers import AutoModelForCausalLM

from mmalign.adapters._causal_lm import CausalLM
from mmalign.adapters._denoiser import Denoiser
from mmalign.training import finished
from mmalign.training.finished import FinishedRun, export, merge, open_run, read_config
from mmalign.training.run import run
from mmalign.training.setup import build_policy
from mmalign.types import UserError

IDS = torch.arange(6, 46).reshape(2, 20)


@torch.no_grad()
def logits(model: Any) -> Tensor:
    """Of two fixed rows."""
    return model(input_ids=IDS).logits.float()


def both(found: FinishedRun) -> tuple[Tensor, Tensor]:
    """Logits of base and trained model."""
    with found.base() as model:
        before = logits(model)
    with found.tuned() as model:
        return before, logits(model)


def plain(bench: Bench) -> Any:
    """The model that every text run started from."""
    return AutoModelForCausalLM.from_pretrained(bench.model["text"]["path"]).eval()


# ---------------------------------------------------------------- what cannot be opened


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(UserError) as caught:
        open_run(folder)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.fixture
def copied(runs: Path, tmp_path: Path) -> Path:
    """A run to be damaged."""
    return Path(shutil.copytree(runs / "text-lora", tmp_path / "run"))


def test_folders_without_a_run(tmp_path: Path, copied: Path) -> None:
    refused(tmp_path / "gone", f"{tmp_path}/gone: holds no run (config.yaml is missing)")
    shutil.rmtree(copied / "checkpoints")
    refused(copied, f"{copied}: holds no checkpoint yet")


def test_a_run_whose_model_has_moved(copied: Path, bench: Bench) -> None:
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace(bench.model["text"]["path"], "./moved"))
    refused(copied, "model.path: there is no folder ./moved")


def test_a_run_is_opened_from_another_folder(
    copied: Path, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its relative paths start where it was started, unless they lead somewhere from here."""
    home, away = tmp_path / "home", tmp_path / "away"
    for one in (home, away):
        one.mkdir()
    model, data = (Path(section["path"]) for section in (bench.model["text"], bench.data["text"]))
    (home / "model").symlink_to(model)
    (home / "rows").symlink_to(data.parent)
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace(str(model), "model").replace(str(data), f"rows/{data.name}"))
    record = json.loads((copied / "run.json").read_text())
    assert record["started_in"] == str(Path.cwd())
    (copied / "run.json").write_text(json.dumps({**record, "started_in": str(home)}))
    monkeypatch.chdir(away)
    found = open_run(copied)
    assert found.config.model.path == f"{home}/model"
    assert found.config.data[0][1].path == f"{home}/rows/{data.name}"
    (away / "model").symlink_to(model)
    assert read_config(copied).model.path == "model"
    (copied / "run.json").write_text(json.dumps({**record, "started_in": str(away / "gone")}))
    (away / "model").unlink()
    refused(copied, f"there is no folder model (relative paths start at {away}, where the command runs)")


@pytest.mark.parametrize("file", ["model.safetensors", "manifest.json", "trainer.json"])
def test_a_broken_checkpoint_is_named(copied: Path, file: str) -> None:
    halve(copied / "checkpoints" / "step-000004" / file)
    refused(copied, "holds no checkpoint yet", "step-000004 is broken")


def test_the_newest_whole_checkpoint_counts(bench: Bench) -> None:
    folder = run(bench.config("text", "two-saved", train={"steps": 2, "save_every": 1}))
    assert open_run(folder).step == 2
    halve(folder / "checkpoints" / "step-000002" / "model.safetensors")
    found = open_run(folder)
    assert found.step == 1
    state = found.adapter.policy.state_dict()
    assert all(torch.equal(state[name], value) for name, value in weights(folder, 1).items())


def test_a_checkpoint_of_another_shape(copied: Path) -> None:
    config = copied / "config.yaml"
    config.write_text(config.read_text().replace("rank: 4", "rank: 2"))
    refused(copied, "step-000004", "do not fit this model", "lora_A")


# ---------------------------------------------------------------- base and trained


@pytest.mark.parametrize("name", ["text", "text-lora"])
def test_base_is_the_model_before_training(runs: Path, bench: Bench, name: str) -> None:
    found = open_run(runs / name)
    before, after = both(found)
    assert torch.equal(before, logits(plain(bench)))
    assert float((before - after).abs().max()) > 1e-2
    assert all(torch.equal(*pair) for pair in zip(both(found), (before, after), strict=True))


@pytest.mark.parametrize(("name", "loaded"), [("text", 2), ("text-lora", 1)])
def test_a_second_model_is_loaded_once_and_only_for_base(
    runs: Path, monkeypatch: pytest.MonkeyPatch, name: str, loaded: int
) -> None:
    built: list[nn.Module] = []

    def counting(*arguments: Any) -> Any:
        adapter = build_policy(*arguments)
        built.append(adapter.policy)
        return adapter

    monkeypatch.setattr(finished, "build_policy", counting)
    found = open_run(runs / name)
    with found.tuned() as model:
        assert model is found.adapter.policy
    assert len(built) == 1
    for _ in range(2):
        with found.base() as model:
            assert model is built[-1] and not model.training
    assert len(built) == loaded


def test_base_of_pictures_is_the_pipeline_before_training(runs: Path, bench: Bench) -> None:
    from diffusers import UNet2DConditionModel

    plain = UNet2DConditionModel.from_pretrained(bench.model["image"]["path"], subfolder="unet").eval()
    inputs = torch.randn(1, 4, 16, 16), torch.tensor([300]), torch.randn(1, 7, 32)
    with torch.no_grad():
        wanted = plain(*inputs).sample
        for name in ("image", "image-lora"):
            found = open_run(runs / name)
            with found.base() as model:
                assert torch.equal(model(*inputs).sample, wanted)
            with found.tuned() as model:
                assert float((model(*inputs).sample - wanted).abs().max()) > 1e-3


def test_an_error_inside_base_leaves_the_trained_model(runs: Path) -> None:
    found = open_run(runs / "text-lora")
    _, after = both(found)
    with pytest.raises(KeyError), found.base():
        raise KeyError
    assert torch.equal(both(found)[1], after)


def test_base_of_a_run_from_an_adapter_is_that_adapter(runs: Path, bench: Bench) -> None:
    start = runs / "text-lora" / "final"
    section = {"rank": 4, "alpha": 16, "path": str(start)}
    folder = run(bench.config("text", "from-adapter", lora=section, train={"lr": 1e-2}))
    before, after = both(open_run(folder))
    upstream = PeftModel.from_pretrained(plain(bench), str(start)).eval()
    assert torch.allclose(before, logits(upstream), atol=1e-5)
    assert float((before - after).abs().max()) > 1e-2
    assert float((before - logits(plain(bench))).abs().max()) > 1e-2


# ---------------------------------------------------------------- merging and exporting


def test_merging_gives_a_plain_model_with_equal_outputs(runs: Path, bench: Bench) -> None:
    found = open_run(runs / "text-lora")
    _, after = both(found)
    policy: nn.Module = found.adapter.policy
    merge(policy)
    assert not any(isinstance(module, BaseTunerLayer) for module in policy.modules())
    assert policy.state_dict().keys() == plain(bench).state_dict().keys()
    assert torch.allclose(logits(policy), after, atol=1e-5)


@pytest.mark.parametrize("name, merged", [("text", False), ("text-lora", True), ("text-lora", False)])
def test_an_export_leaves_the_run_as_it_is(runs: Path, tmp_path: Path, name: str, merged: bool) -> None:
    found = open_run(runs / name)
    before = both(found)
    half = name == "text" or merged
    export(found, tmp_path / "first", merged, torch.bfloat16 if half else torch.float32)
    assert all(torch.equal(*pair) for pair in zip(both(found), before, strict=True))
    (tmp_path / "second").mkdir()  # an empty folder will do
    assert export(found, tmp_path / "second", merged, torch.float32) < 1e-4
    export(open_run(runs / name), tmp_path / "third", merged, torch.float32)
    same_files(tmp_path / "second", tmp_path / "third")


def test_a_merged_export_uses_the_base_as_it_was_given(bench: Bench, tmp_path: Path) -> None:
    """Trained over a base that was held in bfloat16: what LoRA does not touch comes back in every bit."""
    section = {"rank": 4, "targets": ["q_proj"]}
    folder = run(bench.config("text", "over-bf16", lora=section, train={"precision": "bf16"}))
    export(open_run(folder), tmp_path / "merged", True, torch.float32)
    ours = load_file(tmp_path / "merged" / "model.safetensors")
    theirs = load_file(Path(bench.model["text"]["path"]) / "model.safetensors")
    assert ours.keys() == theirs.keys()
    changed = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert changed == {name for name in ours if "q_proj" in name}


def test_an_export_that_scores_differently_is_refused(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = CausalLM.save

    def spoiled(self: CausalLM, model: nn.Module, folder: Path, lora: str | None) -> None:
        with torch.no_grad():
            next(model.parameters()).mul_(1.5)
        whole(self, model, folder, lora)

    monkeypatch.setattr(CausalLM, "save", spoiled)
    with pytest.raises(UserError, match=f"{tmp_path}/x: the exported model scores differently by"):
        export(open_run(runs / "text"), tmp_path / "x", False, torch.float32)


def test_an_export_needs_only_rows_it_can_use(bench: Bench, tmp_path: Path) -> None:
    """Rows that were left out while training are left out by the check of an export too."""
    rows = [json.loads(line) for line in Path(bench.data["text"]["path"]).read_text().splitlines()]
    rows[0]["chosen"] = rows[1]["chosen"] = "<|im_end|>"
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"path": str(tmp_path / "rows.jsonl"), "on_error": "skip"}
    folder = run(bench.config("text", "skipping", data=data, train={"steps": 1}))
    assert export(open_run(folder), tmp_path / "exported", False, torch.float32) < 1e-4


# ---------------------------------------------------------------- noise levels that end in pure noise


def picture(folder: Path) -> Tensor:
    """[3, R, R] of "cat" by upstream's pipeline, in 4 steps and from the noise of seed 7."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    noise = torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(7))[None]
    made = pipeline("cat", num_inference_steps=4, guidance_scale=2.0, latents=noise, output_type="np")
    return torch.from_numpy(made.images[0]).permute(2, 0, 1)


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
def test_an_exported_pipeline_gives_the_runs_own_pictures(bench: Bench, tmp_path: Path, lora: Any) -> None:
    """Samples of a network that predicts velocity use the rescaled levels: those are what is written."""
    base = tiny_sd.save_pipeline(tmp_path / "base", "v_prediction")
    generation = {"steps": 4, "guidance": 2.0}
    model = {"path": str(base), "zero_terminal_snr": True, "generation": generation}
    output = run(
        bench.config(
            "image",
            str(tmp_path / "run"),
            model=model,
            lora=lora,
            train={"steps": 1, "lr": 0.01},
            evaluation={"grid": 0, "levels": 0},
        )
    )
    notes = json.loads((output / "run.json").read_text())["notes"]
    assert any("rescale_betas_zero_snr=True" in note for note in notes) == (lora is not None)
    trained = open_run(output)
    assert isinstance(trained.adapter, Denoiser)
    with trained.tuned() as tuned:
        ours = trained.adapter.sample_pixels(tuned, [tiny_sd.prompt("cat")], [7])[0]
    export(trained, tmp_path / "out", merged=lora is not None, dtype=torch.float32)
    assert float((picture(tmp_path / "out") - ours).abs().max()) < 1e-3
    if lora is None:
        assert float((picture(output / "final") - ours).abs().max()) < 1e-3
