"""What an answer must look like and what it says. Knows no scheduling and no HTTP."""
