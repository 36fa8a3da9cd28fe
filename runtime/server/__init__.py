"""The OpenAI-shaped HTTP API. One file per resource; wire shapes in `wire.py`, conversion in `convert.py`."""
