"""What clients leave on the server: one SQLite database and a folder of files."""
