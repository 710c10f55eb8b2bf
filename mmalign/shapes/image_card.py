"""Put one export of the pretraining into the package, with a card of measured figures."""

import json
import shutil
import time
from pathlib import Path

from mmalign.shapes.image_figures import GUIDANCE, STEPS, Figures, load, measure, sample
from mmalign.shapes.preferences import heldout_prompts
from mmalign.shapes.scenes import BASE, HELD_OUT
from mmalign.types import UserError

PROMPTS = 200

_CARD = """---
license: apache-2.0
library_name: diffusers
pipeline_tag: text-to-image
---

# A tiny Stable-Diffusion-type pipeline for coloured shapes

32 x 32 pictures of a few coloured shapes on a light ground, drawn from captions such as "a small red star",
"a red circle left of a blue square" and "two green triangles". It exists so that preference alignment can be
tried, and checked by a program, on any computer and without a download. It is of no other use.

Made by this project from pictures that it renders itself; licence Apache-2.0. Made by
`python scripts/pretrain_shapes.py image`: {vae_steps} steps of 16 pictures for the autoencoder, then {steps}
steps of 32 for the denoiser and the text tower. The averaged weights of that step are stored, in half
precision (the text tower in single).

| part | what it is |
|---|---|
| tokenizer, text tower | `CLIPTokenizer`, `CLIPTextModel`: 2 layers, width 64, 16 positions, trained here |
| autoencoder | `AutoencoderKL`, factor 2, latents 4 x 16 x 16 |
| denoiser | `UNet2DConditionModel`, channels 32, 64, 96, velocity target |
| scheduler | `DDIMScheduler`, 1000 scaled-linear levels |

## Figures

{num} prompts, each with a (colour, kind) combination that no training picture shows
({held_out}); {sampler} steps, guidance {guidance:g}, one picture
each, read by the judge in `mmalign.shapes.judge_image`:

| measure | value |
|---|---|
| every fact of the prompt holds | {strict:.3f} (singles {strict_single:.3f}, pairs {strict_pair:.3f}, \
groups {strict_group:.3f}) |
| share of facts that hold | {faithfulness:.3f} |
| overlap with the best-fitting shape | {iou:.3f} |
| solidity (style; renders: filled 0.70, outlines 0.28) | {solidity:.3f} |
| empty pictures | {empty:.3f} |
| autoencoder alone: PSNR, every fact holds | {psnr:.1f} dB, {vae_strict:.3f} |

Captions of pairs are the hard ones, and the room left for alignment: the shapes change places or share their
colours. Whether a shape is filled is not in the caption: {filled:.0%} of the training shapes were.
"""


def ship(work: Path, step: int, target: Path) -> None:
    """Copy the export at `step` to `target`, measure it on held-out prompts and write its card."""
    source = work / "exports" / f"step-{step:06d}"
    if not source.exists():
        there = sorted(path.name for path in (work / "exports").glob("step-*"))
        raise UserError(f"--ship {step}: no export of this step in {work / 'exports'}; there are {there}")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("figures.json"))
    for path in target.rglob("*.*"):
        path.chmod(0o644)
    prompts = heldout_prompts(PROMPTS, seed=0)
    pipeline, began = load(target), time.time()
    figures, _ = measure(sample(pipeline, prompts), prompts)
    print(f"{json.dumps(figures.as_dict())} sampled in {time.time() - began:.1f} s", flush=True)
    (target / "README.md").write_text(_card(work, step, figures))


def _card(work: Path, step: int, figures: Figures) -> str:
    vae = json.loads((work / "vae-figures.json").read_text())
    return _CARD.format(
        steps=f"{step:,}",
        vae_steps=f"{json.loads((work / 'vae' / 'state.json').read_text())['step']:,}",
        num=figures.pictures,
        held_out=", ".join(f"{colour} {kind}" for colour, kind in sorted(HELD_OUT)),
        sampler=STEPS,
        guidance=GUIDANCE,
        psnr=vae["psnr"],
        vae_strict=vae["strict"],
        filled=BASE.filled,
        **{name: value for name, value in figures.as_dict().items() if name != "pictures"},
    )
