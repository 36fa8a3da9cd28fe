"""Benchmarks of Galago next to llama-server, and of Galago alone; `scripts/bench` runs them."""
