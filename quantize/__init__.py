"""The quantization toolkit: makes smaller variants of a model. Knows no HTTP."""
