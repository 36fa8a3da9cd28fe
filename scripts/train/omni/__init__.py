"""The built-in model as PyTorch sees it: tokenizer, network, batches, export to GGUF. Knows no questions."""
