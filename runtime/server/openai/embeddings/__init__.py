"""Embedding vectors of texts: `/v1/embeddings`."""
