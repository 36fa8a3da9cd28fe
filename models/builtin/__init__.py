"""The model that ships with Galago: weights, projector and sample media as package data. No code."""
