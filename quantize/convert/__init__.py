"""From a Hugging Face checkpoint to a GGUF file, without PyTorch. Knows no HTTP and no network."""
