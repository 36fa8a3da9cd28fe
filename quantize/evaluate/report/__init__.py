"""Presents evaluation results as tables, plots, an HTML page, or a comparison of two evaluations."""
