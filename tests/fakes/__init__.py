"""Stand-ins for tests: a fake model runner, a local Hub, a running server, and tiny model files."""
