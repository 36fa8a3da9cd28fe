"""API keys with names and limits, what each of them has used, and the audit log."""
