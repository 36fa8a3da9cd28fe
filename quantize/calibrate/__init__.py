"""Importance matrices: reads calibration data with a model and measures how large the inputs of its weights are."""
