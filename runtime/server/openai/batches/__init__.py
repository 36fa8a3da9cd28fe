"""Many requests in one file, answered in idle time: `/v1/batches`."""
