"""Constrains an answer to a JSON schema, a grammar or a regular expression."""
