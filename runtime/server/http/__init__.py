"""What every route shares: security, request bodies, errors, pagination and event streams."""
