"""The GGUF format: what a header says, and a reader for files from untrusted sources."""
