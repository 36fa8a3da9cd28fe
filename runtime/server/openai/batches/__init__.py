"""Many requests in one file, answered while the server is otherwise idle: `/v1/batches`."""
