"""Searches for the mixture of types that loses least within a byte budget."""
