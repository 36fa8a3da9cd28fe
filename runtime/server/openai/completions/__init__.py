"""Completions of prompts without a chat template: `/v1/completions`."""
