"""Endpoints of Galago itself: health, metrics, estimates and tokenization."""
