"""Searches for the mixture of types with the least KL divergence within a size or speed budget."""
