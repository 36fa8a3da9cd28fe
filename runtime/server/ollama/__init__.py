"""Ollama's API over the same service: `/api/*`. Wire shapes, conversion, what is told of models, pulls and routes."""
