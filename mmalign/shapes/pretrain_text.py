"""Pretrain the built-in story model, measure it, ship it, and draw preference pairs from it.

`main` is the command line behind `scripts/pretrain_shapes.py text`. Training writes fresh stories for every
step from (seed, step) alone, so a killed run that is started again continues exactly where it was saved.
"""

import argparse
import json
import math
import os
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from mmalign.shapes.judge_text import judge_text
from mmalign.shapes.stories import heldout_prompts, prompts_of, validation_prompts, write_story
from mmalign.shapes.story_pairs import PAIRS_FILE, PAIRS_HELDOUT_FILE, write_pair_files
from mmalign.shapes.tiny_llama import (
    TEXT_MODEL_FOLDER,
    build_model,
    build_tokenizer,
    chat_text,
    load_story_model,
    sample_stories,
)
from mmalign.types import UserError

STATE_FILE = "state.safetensors"


@dataclass(frozen=True)
class PretrainSettings:
    """What defines a pretraining run: steps, stories per step, peak learning rate, warm-up steps, seed."""

    steps: int = 3000
    batch: int = 16
    lr: float = 4e-3
    warmup: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "lr"):
            if asdict(self)[name] <= 0:
                raise UserError(f"{name} is {asdict(self)[name]}, but must be positive; set it above 0")

    def lr_at(self, step: int) -> float:
        """Learning rate of step 0..steps-1: linear warm-up, then a cosine down to 5 % of the peak."""
        if step < self.warmup:
            return self.lr * (step + 1) / self.warmup
        share = (step - self.warmup) / max(1, self.steps - self.warmup)
        return self.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))


def training_batch(
    tokenizer: PreTrainedTokenizerBase, settings: PretrainSettings, step: int
) -> dict[str, Tensor]:
    """Make the stories of one step: ids, attention mask and labels, all [batch, longest], right-padded.

    Only the answer is scored (with `<|im_end|>` and the line end after it); all else has label -100.
    """
    rng = random.Random(f"pretrain/{settings.seed}/{step}")
    prompts = rng.choices(prompts_of("train"), k=settings.batch)
    texts = [chat_text(tokenizer, prompt.text, write_story(prompt, rng)) for prompt in prompts]
    encoded = tokenizer(texts, padding=True, padding_side="right", return_tensors="pt")
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    heads = tokenizer([chat_text(tokenizer, prompt.text) for prompt in prompts])["input_ids"]
    lengths = torch.tensor([len(head) for head in heads])
    unscored = (mask == 0) | (torch.arange(ids.shape[1]) < lengths[:, None])
    return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(unscored, -100)}


def save_state(
    folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW, settings: PretrainSettings, step: int
) -> None:
    """Save weights, AdamW moments and (as JSON in the header) the settings and the next step, atomically."""
    tensors: dict[str, Tensor] = {}
    for name, weight in model.named_parameters():
        tensors[f"weight/{name}"] = weight.detach()
        for moment in ("step", "exp_avg", "exp_avg_sq"):
            tensors[f"{moment}/{name}"] = optimizer.state[weight][moment]
    header = {"step": str(step), "settings": json.dumps(asdict(settings))}
    partial = folder / (STATE_FILE + ".partial")
    save_file(tensors, partial, metadata=header)
    os.replace(partial, folder / STATE_FILE)


def load_state(
    folder: Path, model: LlamaForCausalLM, optimizer: torch.optim.AdamW, settings: PretrainSettings
) -> int:
    """Restore a saved run in place and return its next step; 0 where the folder holds none."""
    path = folder / STATE_FILE
    if not path.exists():
        return 0
    with safe_open(path, framework="pt") as file:
        header = file.metadata()
        saved = json.loads(header["settings"])
        if saved != asdict(settings):
            raise UserError(f"{path} was made with {saved}, not {asdict(settings)}; use another folder")
        for name, weight in model.named_parameters():
            weight.data.copy_(file.get_tensor(f"weight/{name}"))
            optimizer.state[weight] = {
                moment: file.get_tensor(f"{moment}/{name}") for moment in ("step", "exp_avg", "exp_avg_sq")
            }
    return int(header["step"])


def pretrain(
    folder: Path, settings: PretrainSettings, stop_at: int | None = None, save_every: int = 250
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerBase]:
    """Train in `folder`, continuing a saved run, up to `stop_at` (default: all steps); returns eval mode."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer, settings.seed).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings.lr, betas=(0.9, 0.98), weight_decay=0.01)
    first = load_state(folder, model, optimizer, settings)
    last = settings.steps if stop_at is None else min(stop_at, settings.steps)
    started = time.monotonic()
    for step in range(first, last):
        for group in optimizer.param_groups:
            group["lr"] = settings.lr_at(step)
        loss = model(**training_batch(tokenizer, settings, step), use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done = step + 1
        if done % 100 == 0 or done == last:
            seconds = time.monotonic() - started
            print(f"step {done}/{settings.steps}  loss {loss.item():.4f}  {seconds:.0f} s", flush=True)
        if done % save_every == 0 or done == last:
            save_state(folder, model, optimizer, settings, done)
    return model.eval(), tokenizer


def evaluate(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerBase, prompts: list[str], seed: int
) -> dict[str, float]:
    """Sample one story per prompt at temperature 1 and return the judge's means over the prompts."""
    stories = sample_stories(model, tokenizer, prompts, seed)
    verdicts = [judge_text(prompt, story) for prompt, story in zip(prompts, stories, strict=True)]
    return {
        "prompts": len(prompts),
        "valid": sum(verdict.valid for verdict in verdicts) / len(prompts),
        "grammar": sum(verdict.grammar for verdict in verdicts) / len(prompts),
        "tone": sum(verdict.tone for verdict in verdicts) / len(prompts),
        "words": sum(len(story.split()) for story in stories) / len(prompts),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pretrain_shapes.py text", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    defaults = PretrainSettings()
    train = commands.add_parser("train", help="train (or continue) in a folder, then export the model")
    train.add_argument("--folder", type=Path, default=Path("runs/shapes_text"), help="where the state lives")
    train.add_argument("--export", type=Path, default=TEXT_MODEL_FOLDER, help="where the model goes")
    train.add_argument("--steps", type=int, default=defaults.steps)
    train.add_argument("--batch", type=int, default=defaults.batch)
    train.add_argument("--lr", type=float, default=defaults.lr)
    train.add_argument("--seed", type=int, default=defaults.seed)
    measure = commands.add_parser("evaluate", help="judge samples of a model, one per prompt, as JSON")
    measure.add_argument("--model", type=Path, default=TEXT_MODEL_FOLDER)
    measure.add_argument("--split", choices=("validation", "heldout"), default="validation")
    measure.add_argument("--num", type=int, default=256, help="prompts, at most 288")
    measure.add_argument("--seed", type=int, default=0)
    pairs = commands.add_parser("pairs", help="sample the model and write both files of preference pairs")
    pairs.add_argument("--model", type=Path, default=TEXT_MODEL_FOLDER)
    pairs.add_argument("--folder", type=Path, default=PAIRS_FILE.parent, help="where the two files go")
    pairs.add_argument("--seed", type=int, default=0)
    return parser


def main(argv: Sequence[str]) -> None:
    """Run one of the commands train, evaluate and pairs."""
    args = _parser().parse_args(argv)
    if args.command == "train":
        settings = PretrainSettings(steps=args.steps, batch=args.batch, lr=args.lr, seed=args.seed)
        model, tokenizer = pretrain(args.folder, settings)
        model.half().save_pretrained(args.export)
        tokenizer.save_pretrained(args.export)
        print(f"exported to {args.export}")
        return
    model, tokenizer = load_story_model(args.model)
    if args.command == "evaluate":
        choose = heldout_prompts if args.split == "heldout" else validation_prompts
        print(json.dumps(evaluate(model, tokenizer, choose(args.num, args.seed), args.seed)))
    else:
        train_path, heldout_path = args.folder / PAIRS_FILE.name, args.folder / PAIRS_HELDOUT_FILE.name
        print(write_pair_files(model, tokenizer, train_path, heldout_path, args.seed))
