"""Importance matrices: reads calibration data with a model and collects how large the inputs of its weights are."""
