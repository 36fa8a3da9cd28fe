"""Caches of computed prefixes and encoded media, in memory and on disk."""
