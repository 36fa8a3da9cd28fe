"""The models on this machine: `/v1/models`."""
