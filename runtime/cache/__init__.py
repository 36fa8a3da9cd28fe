"""What was computed before and can be reused: prefixes, encoded media, and their copies on disk."""
