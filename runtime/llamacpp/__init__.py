"""The one door to llama.cpp: handles that close, return codes that become our errors. Knows no requests, no policy."""
