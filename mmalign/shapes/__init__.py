"""A world of coloured shapes whose preferences a program can check, and tiny models pretrained on it."""
