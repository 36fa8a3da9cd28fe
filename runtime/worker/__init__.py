"""Runs a model in its own process: a crash there does not end the parent process. Knows no HTTP."""
