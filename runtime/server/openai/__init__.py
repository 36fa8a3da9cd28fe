"""OpenAI's API. Each resource has its routes, its JSON schema and its conversions."""
