"""Importance matrices: what a model is calibrated on, and how they are collected."""
