"""Galago's own routes: estimates, tokenization and metrics."""
