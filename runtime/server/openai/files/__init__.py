"""Files that clients upload once and name by their ids: `/v1/files`."""
