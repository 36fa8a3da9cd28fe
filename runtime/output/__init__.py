"""Constrains the form of an answer, and parses its text."""
