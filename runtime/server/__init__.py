"""The HTTP server. One package per API: JSON shapes are in `schema.py`, conversions in `convert.py`."""
