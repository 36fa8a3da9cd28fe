"""Estimates what a model needs and how fast it will be: memory, GPU offload, throughput, recommendations."""
