"""Measurements of Galago beside llama-server, and of Galago alone; `scripts/bench` runs them."""
