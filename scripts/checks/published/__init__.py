"""Tiny random checkpoints of published model families, for `scripts/check convert`."""
