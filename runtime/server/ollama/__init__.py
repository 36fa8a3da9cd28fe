"""Ollama's API: `/api/*`."""
