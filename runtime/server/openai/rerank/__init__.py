"""Documents ranked by relevance: `/v1/rerank`."""
