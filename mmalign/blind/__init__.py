"""Answers written on while what they are about is hidden from the model."""
