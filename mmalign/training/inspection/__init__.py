"""A run looked at before it is trained: its rows, its splits, what the model sees, and one step."""
