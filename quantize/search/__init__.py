"""Searches for the mixture of types with the least KL divergence in a size or speed budget."""
