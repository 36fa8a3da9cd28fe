"""Test suites that ask Galago's server through real clients; `scripts/clients/run` runs them."""
