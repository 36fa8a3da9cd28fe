"""Code that all routes share: security, request bodies, errors, pagination and event streams."""
