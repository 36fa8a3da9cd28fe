"""What an answer must look like (constraints) and what its text means (parsing)."""
