"""Samples tokens from logits. Uses numpy, not llama.cpp."""
