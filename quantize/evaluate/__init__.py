"""Measures variants of a model: their quality against the baseline, and their memory, speed and energy use."""
