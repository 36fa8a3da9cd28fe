"""The model manager: finds, downloads and checks model files, and estimates what they need. Does not use llama.cpp."""
