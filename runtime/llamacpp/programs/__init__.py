"""Programs that run llama.cpp in a child process, one per file."""
