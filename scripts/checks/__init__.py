"""Comparisons of Galago with other implementations, the Hub and its own documents; `scripts/check` runs them."""
