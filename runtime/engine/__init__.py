"""Turns prompts into answers step by step. Knows sequences, slots and tokens; no ctypes, templates, JSON or media."""
