"""The only code that calls llama.cpp: closes its handles and turns its return codes into Galago's errors."""
