"""Finds models: their names, the catalogue, installed and imported ones, and which files belong together."""
