"""Imported before torch: one thread of the CPU, no GPU, and no downloads or progress bars."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # read when torch is imported
os.environ["OMP_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TQDM_DISABLE", "1")
