"""DPO step by step against TRL's DPOTrainer: same model, same pairs, same order, loss by loss.

Run by the environment that scripts/peer_env.sh makes:

    MMALIGN_TEST_DATA=/path/to/data .peer/bin/python scripts/bench/trl_parity.py

Two cases: all weights train (the reference is a frozen copy), and a LoRA adapter with random weights is
trained on (the reference is the adapter as it was). Our side is a run through the public `mmalign.train`; the
other is `DPOTrainer.train` with its defaults wherever a default does not change the mathematics.

Made equal: float32 on the CPU, beta 0.1, AdamW (same betas, eps, weight decay on the same weights), constant
learning rate, gradient norm clipped at 1, and the end token: both append `</s>` to every response and
score it. The token ids of both sides are compared before anything is trained. Exit status 1 if a loss differs
by more than 1e-4.
"""

from __future__ import annotations

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # before torch looks
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")

import argparse
import json
import logging
import platform
import sys
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.trainer_callback import PrinterCallback

import mmalign
from mmalign.config import RunConfig
from mmalign.data._order import Order
from mmalign.training.console import Console
from mmalign.training.rows import load_data
from mmalign.training.world import World

PAIRS, BATCH, STEPS, SEED = 64, 4, 16, 0
BETA, DECAY, CLIP, RANK = 0.1, 0.01, 1.0, 8
LR = {"full": 3e-4, "lora": 3e-3}  # large enough that losses move in a few steps
LIMIT = 1e-4
RESULT = Path(__file__).parent / "results" / "trl_parity.md"


@dataclass(frozen=True)
class Curve:
    """Loss and gradient norm (before clipping) of every step."""

    loss: list[float]
    norm: list[float]


def write_inputs(data: Path, folder: Path) -> list[dict[str, str]]:
    """The first training pairs as a file of their own, and an adapter with random weights, B included."""
    lines = (data / "text" / "stories_pairs.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [row for row in map(json.loads, lines) if row["split"] == "train"][:PAIRS]
    rows = [{key: row[key] for key in ("prompt", "chosen", "rejected")} for row in rows]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "pairs.jsonl").write_text(text, encoding="utf-8")
    torch.manual_seed(SEED)
    base = AutoModelForCausalLM.from_pretrained(data / "models" / "stories260K")
    lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(base, lora)
    with torch.no_grad():
        for weight_name, weight in adapted.named_parameters():
            if "lora_B" in weight_name:
                weight.mul_(0.1)  # at full size the model would no longer speak
    adapted.save_pretrained(folder / "adapter")
    return rows


def our_config(model: Path, folder: Path, case: str) -> RunConfig:
    """The run of our side, written and read as a config file."""
    tree: dict[str, Any] = {
        "model": {"adapter": "text", "path": str(model)},
        "data": {"source": "jsonl", "path": str(folder / "pairs.jsonl")},
        "objective": {"name": "dpo", "beta": BETA},
        "train": {"steps": STEPS, "batch": BATCH, "lr": LR[case], "weight_decay": DECAY, "clip": CLIP},
        "log": {"every": 1, "progress": False},
        "cache": None,
        "output": str(folder / f"ours-{case}"),
        "seed": SEED,
    }
    if case == "lora":
        tree["lora"] = {"rank": RANK, "path": str(folder / "adapter")}
    path = folder / f"{case}.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return mmalign.load_config(path)


def run_ours(config: RunConfig) -> Curve:
    """Losses from the run's own log."""
    output = mmalign.train(config)
    lines = (output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    logged = {line["step"]: line for line in map(json.loads, lines) if "loss" in line}
    return Curve(*([logged[step][name] for step in range(1, STEPS + 1)] for name in ("loss", "grad_norm")))


def make_trainer(model: Path, folder: Path, case: str, rows: list[dict[str, str]]) -> Any:
    """TRL's trainer over the rows in the order of our run."""
    from trl import DPOConfig, DPOTrainer  # type: ignore[import-not-found]

    places = Order(SEED, (PAIRS,), BATCH)
    ordered = [rows[place.index] for step in range(STEPS) for place in places.step(step)]
    policy: Any = AutoModelForCausalLM.from_pretrained(model)
    if case == "lora":
        policy = PeftModel.from_pretrained(policy, folder / "adapter", is_trainable=True)
    args = DPOConfig(
        output_dir=str(folder / f"trl-{case}"),
        beta=BETA,
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        gradient_accumulation_steps=1,
        train_sampling_strategy="sequential",
        learning_rate=LR[case],
        lr_scheduler_type="constant",
        warmup_steps=0,
        weight_decay=DECAY,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        max_grad_norm=CLIP,
        max_length=None,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    tokenizer = AutoTokenizer.from_pretrained(model)
    return DPOTrainer(policy, args=args, train_dataset=Dataset.from_list(ordered), processing_class=tokenizer)


def compare_tokens(trainer: Any, config: RunConfig) -> int:
    """Raise SystemExit unless both sides score the same ids from the same place; returns their number."""
    world = World(0, 1, torch.device("cpu"))
    data = load_data(config, world, Console(world, progress=False, quiet=True))
    adapter = config.model.build(world.device, torch.float32)
    loader = data.loader(adapter, config)
    items = [item for step in loader.steps(0, STEPS) for item in step]
    scored = 0
    for number, (item, theirs) in enumerate(zip(items, trainer.train_dataset, strict=True)):
        for row in item.prepared.rows:
            ids, start = row.data["ids"].tolist(), int(row.data["start"])
            wanted = theirs["prompt_ids"] + theirs[f"{row.role}_ids"]
            if ids != wanted or start != len(theirs["prompt_ids"]):
                raise SystemExit(f"sample {number}, {row.role}: token ids differ\nours {ids}\nTRL  {wanted}")
            scored += len(ids) - start
    return scored


def run_trl(trainer: Any) -> Curve:
    """Losses from the trainer's own log."""
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    return Curve([entry["loss"] for entry in logged], [entry["grad_norm"] for entry in logged])


def table(ours: Curve, theirs: Curve) -> tuple[str, float]:
    """A Markdown table and the largest difference of a loss."""
    lines = [
        "| step | loss, ours | loss, TRL | difference | gradient norm, ours | gradient norm, TRL |",
        "|---:|---:|---:|---:|---:|---:|",
    ]
    columns = zip(ours.loss, theirs.loss, ours.norm, theirs.norm, strict=True)
    for step, (a, b, p, q) in enumerate(columns, 1):
        lines.append(f"| {step} | {a:.8f} | {b:.8f} | {abs(a - b):.1e} | {p:.6f} | {q:.6f} |")
    gap = max(abs(a - b) for a, b in zip(ours.loss, theirs.loss, strict=True))
    return "\n".join(lines), gap


def report(tables: dict[str, tuple[str, float]], scored: int) -> str:
    """What was compared, with which versions, and the tables."""
    names = ("mmalign", "trl", "torch", "transformers", "peft", "accelerate")
    titles = {
        "full": "All weights train; the reference is a frozen copy",
        "lora": "A LoRA adapter of rank 8 is trained on; the reference is the adapter as it was",
    }
    parts = [
        "# Parity with TRL's DPOTrainer\n",
        f"Written by `scripts/bench/trl_parity.py`. Model stories260K (260,032 weights, float32, CPU); "
        f"{PAIRS} pairs, batch {BATCH}, {STEPS} optimizer steps, beta {BETA}, AdamW, constant learning rate, "
        f"weight decay {DECAY:g}, gradient norm clipped at {CLIP:g}. Both sides append the end token and "
        f"score it; the ids of all {scored} scored tokens are equal on both sides. TRL runs with its "
        "defaults otherwise (gradient checkpointing on, all positions scored on a CPU).\n",
        f"Versions: python {platform.python_version()}, "
        + ", ".join(f"{n} {version(n)}" for n in names)
        + ".\n",
    ]
    for case, (text, gap) in tables.items():
        verdict = "within" if gap <= LIMIT else "ABOVE"
        parts.append(
            f"## {titles[case]}\n\nLearning rate {LR[case]:g}.\n\n{text}\n\n"
            f"Largest difference of a loss: {gap:.1e} ({verdict} {LIMIT:g})\n"
        )
    return "\n".join(parts)


def main() -> int:
    """Run the chosen cases; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=os.environ.get("MMALIGN_TEST_DATA"))
    parser.add_argument("--case", choices=("full", "lora", "both"), default="both")
    parser.add_argument("--no-write", action="store_true", help=f"do not write {RESULT.name}")
    chosen = parser.parse_args()
    if chosen.data is None:
        parser.error("name the data folder: --data FOLDER or MMALIGN_TEST_DATA=FOLDER")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings(
        "ignore", category=FutureWarning
    )  # both libraries use names that go in their next
    model = Path(chosen.data) / "models" / "stories260K"
    cases = ("full", "lora") if chosen.case == "both" else (chosen.case,)
    tables, scored = {}, 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_inputs(Path(chosen.data), folder)
        for case in cases:
            config = our_config(model, folder, case)
            trainer = make_trainer(model, folder, case, rows)
            scored = compare_tokens(trainer, config)
            tables[case] = table(run_ours(config), run_trl(trainer))
    text = report(tables, scored)
    print(text)
    if not chosen.no_write:
        if chosen.case != "both":
            print("not written: only a run of both cases is recorded", file=sys.stderr)
        else:
            RESULT.write_text(text, encoding="utf-8")
    return int(max(gap for _, gap in tables.values()) > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
