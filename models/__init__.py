"""The model manager: names, files and headers of weights. Knows nothing of llama.cpp, HTTP or printing."""
