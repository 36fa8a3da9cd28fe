"""Uploaded files, which requests refer to by id: `/v1/files`."""
