"""The loop: run, step, scorer, references, LoRA, checkpoints, metrics."""
