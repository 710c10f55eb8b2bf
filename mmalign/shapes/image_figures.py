"""Load a shapes pipeline, sample from it, and measure the pictures with the judge."""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from mmalign.shapes.judge_image import Verdict, judge
from mmalign.shapes.scenes import parse_caption

SHIPPED = Path(__file__).with_name("models") / "image"
"""The folder of the pretrained pipeline that comes with the package."""
GUIDANCE, STEPS, BATCH = 3.0, 20, 25


@dataclass(frozen=True)
class Figures:
    """Means over judged pictures; every entry is a share between 0 and 1 except `pictures`, their number."""

    pictures: int
    strict: float
    faithfulness: float
    iou: float
    solidity: float
    strict_single: float
    strict_pair: float
    strict_group: float
    empty: float

    def as_dict(self) -> dict[str, float]:
        """Plain numbers, rounded for files."""
        return {name: round(value, 4) for name, value in asdict(self).items()}


def load(folder: Path = SHIPPED) -> StableDiffusionPipeline:
    """Load a pipeline folder in float32, without a progress bar."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def sample(
    pipeline: StableDiffusionPipeline,
    prompts: Sequence[str],
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> list[Image.Image]:
    """One picture for each prompt; the starting noise depends on (seed, position, prompt) alone."""
    images: list[Image.Image] = []
    for start in range(0, len(prompts), BATCH):
        part = list(prompts[start : start + BATCH])
        noise = [_generator(seed, start + i, prompt) for i, prompt in enumerate(part)]
        made = pipeline(part, num_inference_steps=steps, guidance_scale=guidance, generator=noise)
        images += made.images
    return images


def measure(images: Sequence[Image.Image], prompts: Sequence[str]) -> tuple[Figures, list[Verdict]]:
    """Judge pictures against their prompts: the means, and the verdicts one by one."""
    verdicts = [judge(image, prompt) for image, prompt in zip(images, prompts, strict=True)]
    layouts = [_layout(prompt) for prompt in prompts]

    def mean(values: Sequence[float]) -> float:
        return sum(values) / len(values) if values else 0.0

    def strict(layout: str) -> float:
        return mean([v.strict for v, other in zip(verdicts, layouts, strict=True) if other == layout])

    figures = Figures(
        pictures=len(verdicts),
        strict=mean([v.strict for v in verdicts]),
        faithfulness=mean([v.faithfulness for v in verdicts]),
        iou=mean([v.iou for v in verdicts]),
        solidity=mean([v.solidity for v in verdicts]),
        strict_single=strict("single"),
        strict_pair=strict("pair"),
        strict_group=strict("group"),
        empty=mean([v.iou == 0 for v in verdicts]),
    )
    return figures, verdicts


def _layout(prompt: str) -> str:
    caption = parse_caption(prompt)
    if caption.relation is not None:
        return "pair"
    return "group" if len(caption.things) > 1 else "single"


def _generator(seed: int, position: int, prompt: str) -> torch.Generator:
    digest = hashlib.blake2b(f"{seed} {position} {prompt}".encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "big"))
