"""One file per kind of diffusion pipeline; `adapters/_families.py` says what each defines."""
