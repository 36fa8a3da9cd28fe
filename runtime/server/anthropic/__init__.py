"""Anthropic's API over the same service: `/v1/messages`. Wire shapes, conversion, events and routes, a file each."""
