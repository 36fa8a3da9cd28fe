"""Data that the server stores for its clients: one SQLite database, and a folder of files next to it."""
