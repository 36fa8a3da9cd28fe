"""Measures what a variant costs in quality, memory, speed and energy."""
