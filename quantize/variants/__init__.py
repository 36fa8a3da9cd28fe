"""Smaller variants of a model: schemes, plans, rounding and pruning."""
