"""Fuzzing of the code that reads untrusted bytes; `scripts/fuzz` runs it."""
