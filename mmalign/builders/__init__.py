"""One file per way of making preference pairs from a model's own samples."""
