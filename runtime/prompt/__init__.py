"""Builds prompts from messages: chat template, media, tokens. Untrusted input is contained here."""
