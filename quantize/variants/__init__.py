"""Variants of a model: quantization schemes, plans and files, GPTQ rounding, and layer pruning."""
