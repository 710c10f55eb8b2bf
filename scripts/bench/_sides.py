"""The contestants of the speed benchmark: each takes the same optimizer step on the same pair.

What is timed: forward, backward, clipping, AdamW and the metrics that the trainer gathers every step. The
peers get batches that are already collated; ours collates inside the step, as its training loop does.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from _our_step import OurStep
from _workloads import BETA, CLIP, LR, RANK, TARGETS, Workload, perturb
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from mmalign import config as configs


class Side(Protocol):
    """One contestant."""

    model: nn.Module

    def backward(self, pair: int) -> float:
        """Loss of one pair; its gradients are added to the adapter's."""

    def update(self) -> None:
        """Clip, take the optimizer's step, clear gradients."""


class Ours(OurStep):
    """The parts of a run as `mmalign.training.run` puts them together, reference live or cached on disk."""

    def __init__(self, workload: Workload, folder: Path, reference: str) -> None:
        tree: dict[str, Any] = {
            "model": {"adapter": "text", "path": str(folder / "model")},
            "data": {"source": "jsonl", "path": str(folder / "pairs.jsonl")},
            "objective": {"name": "dpo", "beta": BETA},
            "lora": {"rank": RANK, "targets": list(TARGETS)},
            "reference": {"name": reference},
            "train": {"steps": 1, "batch": 1, "lr": LR, "clip": CLIP},
            "log": {"progress": False},
            "cache": str(folder / f"cache-{reference}"),
            "output": str(folder / "run"),
        }
        super().__init__(configs.from_tree(tree, "benchmark"), workload.pairs)
        perturb(self.model)


@contextmanager
def compact_head() -> Iterator[None]:
    """Let TRL score response positions only, as it does on a GPU.

    TRL asks one function whether the device has Triton kernels; a model's patched forward looks it up in
    `trl.trainer.utils` and, if so, hands response positions only to the fused head. Yes is the answer to that
    question alone: the head's own module keeps its answer and runs its plain torch path.
    """
    from trl.trainer import utils  # type: ignore[import-not-found]

    before = utils._use_triton
    utils._use_triton = lambda device: True
    try:
        yield
    finally:
        utils._use_triton = before


class Trl:
    """TRL's DPOTrainer, built as a user would, its `training_step` driven from outside."""

    def __init__(self, workload: Workload, folder: Path, compact: bool, tuned: bool) -> None:
        from trl import DPOConfig, DPOTrainer  # type: ignore[import-not-found]

        self.head = compact_head if compact else nullcontext
        args = DPOConfig(
            output_dir=str(folder / "trl"),
            beta=BETA,
            per_device_train_batch_size=1,
            learning_rate=LR,
            lr_scheduler_type="constant",
            max_grad_norm=CLIP,
            max_length=None,
            bf16=False,
            use_cpu=True,
            report_to="none",
            disable_tqdm=True,
            save_strategy="no",
            max_steps=10**6,
            gradient_checkpointing=not tuned,
            precompute_ref_log_probs=tuned,
        )
        rows = [json.loads(line) for line in (folder / "pairs.jsonl").read_text().splitlines()]
        with self.head():
            self.trainer = trainer = DPOTrainer(
                AutoModelForCausalLM.from_pretrained(folder / "model"),
                args=args,
                train_dataset=Dataset.from_list(rows),
                processing_class=AutoTokenizer.from_pretrained(folder / "model"),
                peft_config=LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS)),
            )
        trainer.create_optimizer_and_scheduler(num_training_steps=args.max_steps)
        self.model, self.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
        if args.gradient_checkpointing:  # what `train` does before its loop
            self.model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
        trainer.current_gradient_accumulation_steps = 1
        self.model.train()
        perturb(self.model)
        keys = ("prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps")
        self.batches = [
            trainer.data_collator([{k: v for k, v in row.items() if k in keys}])
            for row in trainer.train_dataset
        ]

    def backward(self, pair: int) -> float:
        """See `Side`."""
        with self.head():
            return float(self.trainer.training_step(self.model, self.batches[pair]))

    def update(self) -> None:
        """See `Side`."""
        self.trainer.accelerator.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.trainer.lr_scheduler.step()
        self.model.zero_grad()


class Naive:
    """The plain loop: chosen and rejected concatenated, the logits of every position, the reference live."""

    def __init__(self, workload: Workload, folder: Path) -> None:
        base: Any = AutoModelForCausalLM.from_pretrained(folder / "model")
        lora = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS))
        self.model = get_peft_model(base, lora)
        self.model.train()
        perturb(self.model)
        self.trainable = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trainable, lr=LR, weight_decay=0.0, fused=True)
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        self.prompt = workload.prompt
        self.batches: list[Tensor] = []
        for line in (folder / "pairs.jsonl").read_text().splitlines():
            row = json.loads(line)
            texts = [row["prompt"] + row[role] + tokenizer.eos_token for role in ("chosen", "rejected")]
            self.batches.append(torch.tensor(tokenizer(texts)["input_ids"]))  # all of one length

    def _scores(self, ids: Tensor) -> Tensor:
        logits = self.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
        logp = torch.log_softmax(logits[:, :-1].float(), dim=-1)
        return logp.gather(-1, ids[:, 1:, None]).squeeze(-1)[:, self.prompt - 1 :]

    def backward(self, pair: int) -> float:
        """See `Side`."""
        ids = self.batches[pair]
        with torch.no_grad(), self.model.disable_adapter():
            reference = self._scores(ids)
        chosen, rejected = (self._scores(ids) - reference).sum(-1)
        loss = -F.logsigmoid(BETA * (chosen - rejected))
        loss.backward()
        return float(loss.detach())

    def update(self) -> None:
        """See `Side`."""
        torch.nn.utils.clip_grad_norm_(self.trainable, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()


SIDES = {
    "ours_live": "ours, reference live",
    "ours_cached": "ours, reference cached on disk",
    "trl": "TRL as shipped on a CPU",
    "trl_compact": "TRL compact (response positions only, as on a GPU)",
    "trl_compact_tuned": "TRL compact, no checkpointing, precomputed reference",
    "naive": "plain loop, full logits, reference live",
}


def build(name: str, workload: Workload, folder: Path) -> Side:
    """A contestant by its name in SIDES."""
    if name.startswith("ours"):
        return Ours(workload, folder, "cached" if name == "ours_cached" else "lora_off")
    if name.startswith("trl"):
        return Trl(workload, folder, "compact" in name, "tuned" in name)
    if name == "naive":
        return Naive(workload, folder)
    raise ValueError(f"no contestant is called {name}; there are {', '.join(SIDES)}")
