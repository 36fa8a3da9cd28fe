"""The built-in model in PyTorch: tokenizer, network, batches, and export to GGUF."""
