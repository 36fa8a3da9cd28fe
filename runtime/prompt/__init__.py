"""From messages to a prompt: chat template, media decoding, tokens. Untrusted bytes end here. Knows no scheduling."""
