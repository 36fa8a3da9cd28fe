"""The Hugging Face Hub: its API, the local cache, downloads and pulls."""
