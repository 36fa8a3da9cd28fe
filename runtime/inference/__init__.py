"""One loaded model: generates text or computes embeddings."""
