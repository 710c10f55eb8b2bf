"""Exports of all kinds: the upstream libraries load them, with the outputs of the trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import RUNS, assert_refused, call, listing
from diffusers import StableDiffusionPipeline
from peft import PeftModel
from training.tiny_runs import Bench
from transformers import AutoModelForCausalLM

from mmalign.training.finished import open_run

Capture = pytest.CaptureFixture[str]


def _tuned(folder: Path, *inputs: torch.Tensor) -> torch.Tensor:
    with open_run(folder).tuned() as model:
        return _outputs(model, *inputs)


@torch.no_grad()
def _outputs(model: Any, *inputs: torch.Tensor) -> torch.Tensor:
    found = model.eval()(*(i if i.dtype == torch.long else i.to(model.dtype) for i in inputs))
    return (found.logits if hasattr(found, "logits") else found.sample).float()


EXPORTS: dict[str, tuple[str, tuple[str, ...], float]] = {
    "text": ("text", (), 1e-5),
    "text in bfloat16": ("text", ("--dtype", "bfloat16"), 0.1),
    "text LoRA": ("text-lora", (), 1e-5),
    "text LoRA merged": ("text-lora", ("--merge",), 1e-5),
    "text LoRA merged in bfloat16": ("text-lora", ("--merge", "--dtype", "bfloat16"), 0.1),
    "image": ("image", (), 1e-5),
    "image LoRA": ("image-lora", (), 1e-5),
    "image LoRA merged": ("image-lora", ("--merge",), 1e-5),
    "image LoRA merged in float16": ("image-lora", ("--merge", "--dtype", "float16"), 0.1),
}


@pytest.mark.parametrize("case", EXPORTS)
def test_exports_load_upstream_with_equal_outputs(
    capsys: Capture, bench: Bench, runs: Path, tmp_path: Path, case: str
) -> None:
    name, options, bound = EXPORTS[case]
    target, kind = tmp_path / "exported", RUNS[name][0]
    done = call(capsys, "export", runs / name, target, *options)
    assert done.code == 0 and done.out.startswith(f"{target}  reloaded; largest score difference "), done.err
    base, alone = bench.model[kind]["path"], case.endswith("LoRA")
    torch.manual_seed(0)
    if kind == "text":
        inputs: tuple[torch.Tensor, ...] = (torch.randint(6, 300, (2, 20)),)
        before: Any = AutoModelForCausalLM.from_pretrained(base)
        reference = _outputs(before, *inputs)
        model = (
            PeftModel.from_pretrained(before, str(target))
            if alone
            else AutoModelForCausalLM.from_pretrained(target)
        )
    else:
        inputs = torch.randn(2, 4, 16, 16), torch.tensor([30, 700]), torch.randn(2, 7, 32)
        pipeline = StableDiffusionPipeline.from_pretrained(base, safety_checker=None)
        reference = _outputs(pipeline.unet, *inputs)
        if alone:
            pipeline.load_lora_weights(target)
        else:
            wanted = torch.float16 if "float16" in case else torch.float32
            pipeline = StableDiffusionPipeline.from_pretrained(target, torch_dtype=wanted)
        model = pipeline.unet.float()
    if "bfloat16" in case:
        assert model.dtype == torch.bfloat16
    ours, theirs = _tuned(runs / name, *inputs), _outputs(model, *inputs)
    gap, moved = float((ours - theirs).abs().max()), float((ours - reference).abs().max())
    assert gap < bound, gap
    assert moved > 5 * max(gap, 1e-4), (moved, gap)  # training moved it further than writing did


@pytest.mark.parametrize(
    "name, options, words",
    [
        ("text", ("x", "--dtype", "int8"), ("export --dtype", "'int8'")),
        ("text", ("x", "--merge"), ("export --merge", "no LoRA to merge")),
        ("text-lora", ("x", "--dtype", "bfloat16"), ("export --dtype=bfloat16", "add --merge")),
        ("text", (".",), ("not an empty folder",)),
        ("text", ("pairs.jsonl",), ("pairs.jsonl", "not an empty folder")),
        ("text", ("pairs.jsonl/x",), ("pairs.jsonl/x", "Not a directory")),
        ("gone", ("x",), ("gone", "holds no run")),
    ],
)
def test_export_refuses(
    capsys: Capture, runs: Path, work: Path, name: str, options: tuple[str, ...], words: tuple[str, ...]
) -> None:
    before = listing(work)
    assert_refused(call(capsys, "export", runs / name, *options), words)
    assert listing(work) == before
