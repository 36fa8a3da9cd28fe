"""The quantization toolkit: converts, calibrates, quantizes, prunes and evaluates models. Start at `api.py`."""
