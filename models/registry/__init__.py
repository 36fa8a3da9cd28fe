"""Finds models: their names, the catalog, installed and imported ones, and which files belong together."""
