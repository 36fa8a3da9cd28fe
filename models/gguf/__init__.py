"""The GGUF format: its header, and a reader for untrusted files."""
